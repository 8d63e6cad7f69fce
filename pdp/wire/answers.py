"""Decisions → the bytes of their answers."""

from functools import lru_cache
from typing import Any

from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.model import Source
from pdp.core.usage import Limits
from pdp.v1 import decision_pb2 as pb
from pdp.wire.moments import write_moment

MAX_SHADOWS = 100
"""Maximum number of shadow policies in an answer: those that matched, in the order of evaluation."""


def write_decision(decision: Decision) -> pb.EvaluateResponse:
    """Builds the answer to a decision; the shell adds its id, message, remaining counts and provenance."""
    outcome: Any = decision.outcome.value  # the generated stubs want the enum's wrapper, which no value has
    reason: Any = decision.reason.value
    answer = pb.EvaluateResponse(outcome=outcome, reason=reason, risk_score=decision.risk_score)
    if decision.mfa_required:
        answer.mfa_required = True
    if decision.policy is not None:
        answer.MergeFrom(_policy_part(decision.policy))
    for policy in decision.shadow[:MAX_SHADOWS]:
        answer.shadow.add(policy=_policy_part(policy).policy, outcome=policy.outcome.value)
    if decision.retry_after is not None:
        answer.retry_after = decision.retry_after
    return answer


def write_provenance(answer: pb.EvaluateResponse, revision: int, source: Source, staleness: float) -> None:
    """Adds to an answer the registry data that it was decided from; `staleness` in seconds."""
    answer.registry_revision = revision
    answer.staleness = staleness
    answer.source = source.value  # type: ignore[assignment]  # the stubs want the enum's wrapper


def write_approval(answer: pb.EvaluateResponse, approval_id: str, expires_at: float, *, pending: bool = False) -> None:
    """Adds to an answer the approval that it waits for; `expires_at` in Unix seconds, 0: unknown.

    `pending`: an earlier decision opened it, and it still waits for people.
    """
    answer.approval_id = approval_id
    if pending:
        answer.approval_pending = True
    if expires_at:
        write_moment(answer.approval_expires_at, expires_at)


def write_remaining(answer: pb.EvaluateResponse, remaining: Limits, budget_micros: int | None) -> None:
    """Adds to an answer the remaining counts and budget."""
    minute, hour, day = remaining
    rates = answer.rate_remaining
    if minute is not None:
        rates.minute = minute
    if hour is not None:
        rates.hour = hour
    if day is not None:
        rates.day = day
    if budget_micros is not None:
        answer.budget_remaining_usd = budget_micros / 1_000_000


# Every decision by a policy has the same part; building it costs more than the decision.
@lru_cache(maxsize=4096)
def _policy_part(policy: CompiledPolicy) -> pb.EvaluateResponse:
    part = pb.EvaluateResponse()
    part.policy.id = policy.policy_id
    part.policy.name = policy.policy_name
    part.policy.priority = policy.priority
    if policy.action_params:
        part.action_params.update(dict(policy.action_params))
    return part
