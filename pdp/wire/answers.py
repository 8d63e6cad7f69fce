"""Answers to decisions: one value with all that an answer tells, and the bytes of its message.

What many answers share is serialized once, and joined to what changes: protobuf takes fields in any order.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.messages import by_policy
from pdp.core.model import Outcome, Reason, Source
from pdp.core.usage import Limits
from pdp.v1 import decision_pb2 as pb
from pdp.wire.moments import write_moment

MAX_SHADOWS = 100
"""Maximum number of shadow policies in an answer: those that matched, in the order of evaluation."""
MAX_SHARED = 4096
"""Policies, and pairs of an agent's version and a revision, whose part of the answers is kept."""
NO_LIMITS = Limits(None, None, None)


class AwaitedApproval(NamedTuple):
    """The approval that an action waits for, until `expires_at` in Unix seconds, 0: unknown.

    `pending`: an earlier decision opened it, and it still waits for people.
    """

    approval_id: str
    expires_at: float
    pending: bool = False


@dataclass(slots=True)
class Answer:
    """A decision, and what its answer tells beside it; `staleness` in seconds.

    `message` is empty where it is the sentence of the policy that decided, and only there.
    """

    decision: Decision
    decision_id: str
    message: str
    revision: int
    source: Source
    staleness: float
    agent_version: str = ""
    remaining: Limits = NO_LIMITS
    budget_micros: int | None = None
    approval: AwaitedApproval | None = None


def write_answer(answer: Answer) -> bytes:
    """The serialized `EvaluateResponse` of an answer."""
    message, decision = pb.EvaluateResponse(), answer.decision
    message.decision_id = answer.decision_id
    message.risk_score = decision.risk_score
    message.staleness = answer.staleness
    if answer.message:
        _set_verdict(message, decision.outcome, decision.reason, answer.message)
        shared = b"" if decision.policy is None else _policy_part(decision.policy)
    else:
        shared = _policy_verdict(decision.policy, decision.outcome)
    if answer.remaining is not NO_LIMITS:
        _set_rates(message, answer.remaining)
    if answer.budget_micros is not None:
        message.budget_remaining_usd = answer.budget_micros / 1_000_000
    if decision.mfa_required:
        message.mfa_required = True
    if decision.retry_after is not None:
        message.retry_after = decision.retry_after
    if decision.shadow:
        _add_shadows(message, decision.shadow)
    if answer.approval is not None:
        _set_approval(message, answer.approval)
    return message.SerializeToString() + shared + _origin_part(answer.agent_version, answer.revision, answer.source)


def _set_verdict(message: pb.EvaluateResponse, outcome: Outcome, reason: Reason, text: str) -> None:
    message.outcome = outcome  # type: ignore[assignment]  # the stubs want the enum's wrapper, which no value has
    message.reason = reason  # type: ignore[assignment]
    message.message = text


def _set_rates(message: pb.EvaluateResponse, remaining: Limits) -> None:
    minute, hour, day = remaining
    rates = message.rate_remaining
    if minute is not None:
        rates.minute = minute
    if hour is not None:
        rates.hour = hour
    if day is not None:
        rates.day = day


def _add_shadows(message: pb.EvaluateResponse, shadow: tuple[CompiledPolicy, ...]) -> None:
    for policy in shadow[:MAX_SHADOWS]:
        verdict = message.shadow.add(outcome=policy.outcome)
        _set_reference(verdict.policy, policy)


def _set_approval(message: pb.EvaluateResponse, approval: AwaitedApproval) -> None:
    message.approval_id = approval.approval_id
    message.approval_pending = approval.pending
    if approval.expires_at:
        write_moment(message.approval_expires_at, approval.expires_at)


def _set_reference(message: pb.PolicyReference, policy: CompiledPolicy) -> None:
    message.id, message.name, message.priority = policy.policy_id, policy.policy_name, policy.priority


@lru_cache(maxsize=MAX_SHARED)
def _policy_verdict(policy: CompiledPolicy | None, outcome: Outcome) -> bytes:
    """What the answers of a policy that decided share."""
    message = pb.EvaluateResponse()
    _set_verdict(message, outcome, Reason.POLICY_MATCHED, by_policy(policy, outcome))
    return message.SerializeToString() + (b"" if policy is None else _policy_part(policy))


@lru_cache(maxsize=MAX_SHARED)
def _policy_part(policy: CompiledPolicy) -> bytes:
    """What an answer tells of the policy."""
    message = pb.EvaluateResponse()
    _set_reference(message.policy, policy)
    if policy.action_params:
        message.action_params.update(dict(policy.action_params))
    return message.SerializeToString()


@lru_cache(maxsize=MAX_SHARED)
def _origin_part(agent_version: str, revision: int, source: Source) -> bytes:
    """What an answer tells of the registry data that it was decided from."""
    message = pb.EvaluateResponse(agent_version=agent_version, registry_revision=revision)
    message.source = source  # type: ignore[assignment]
    return message.SerializeToString()
