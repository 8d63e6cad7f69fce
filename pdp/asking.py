"""What people are asked about an action before it is taken, and what an answer tells of that."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pdp import wire
from pdp.approvals import ApprovalUse, Pending, Question, UseStatus
from pdp.core.action import Action
from pdp.core.compile import CompiledAgent
from pdp.core.decide import NEEDS_APPROVAL, approval_helps
from pdp.core.decision import Decision
from pdp.core.fields import quote
from pdp.core.messages import message
from pdp.core.model import Now, Outcome, Reason
from pdp.decision_log.record import Opens

APPROVAL_SECONDS = 3600
"""The time to decide on an approval if the policy does not set one."""


class PendingUnknownError(Exception):
    """The action needs a person: first find out whether people are asked `question` already. Nothing was counted."""

    def __init__(self, question: Question) -> None:
        super().__init__("whether an approval of the action is pending is not known yet")
        self.question = question


class Approving(NamedTuple):
    """What is known of approvals before a decision.

    `use` is the use of the approval in the request, if its action needs one; `pending` is the approval that the
    question of the action has already. With `asks_first` and without `pending`, an action that needs a person raises
    `PendingUnknownError`.
    """

    use: ApprovalUse | None = None
    pending: Pending | None = None
    asks_first: bool = False


class Asking(NamedTuple):
    """What an answer tells of an approval: a text in place of the decision's own, if it is not empty; the approval that
    the action waits for; and the one that it opens.
    """

    text: str = ""
    awaited: wire.AwaitedApproval | None = None
    opens: Opens | None = None


NOTHING_KNOWN = Approving()
ASKS_FIRST = Approving(asks_first=True)
ASKS_NOBODY = Asking()


def checked(decision: Decision, use: ApprovalUse) -> Decision:
    """The decision, or a block if the approval in the request was given for another action."""
    if use.status is UseStatus.MISMATCH and decision.outcome in NEEDS_APPROVAL:
        return replace(decision, outcome=Outcome.BLOCK, reason=Reason.APPROVAL_MISMATCH, mfa_required=False)
    return decision


def used(agent: CompiledAgent, action: Action, decision: Decision, use: ApprovalUse) -> Asking:
    """Who approved the action, or why the approval in the request did not allow it."""
    if decision.reason is Reason.APPROVED:
        return Asking(use.message)
    if not approval_helps(decision):
        return ASKS_NOBODY
    awaited = wire.AwaitedApproval(use.approval_id, use.expires_at, use.pending)
    return Asking(f"{message(agent, action, decision)}; {use.message}", awaited)


def asked(
    agent: CompiledAgent,
    action: Action,
    decision: Decision,
    now: Now,
    *,
    approving: Approving,
    next_id: Callable[[float], str],
) -> Asking:
    """The pending approval of the question that the decision asks people, or a new one with the id that comes next."""
    if not approval_helps(decision):
        return ASKS_NOBODY
    question = Question(action.agent_id, wire.digest(action), wire.demand_digest(decision))
    pending = approving.pending
    if approving.asks_first and pending is None:
        raise PendingUnknownError(question)
    if pending is not None and pending.approval_id and pending.question == question:
        text = f"{message(agent, action, decision)}; approval {quote(pending.approval_id)} of it is already pending"
        return Asking(text, wire.AwaitedApproval(pending.approval_id, pending.expires_at, pending=True))
    seconds = decision.policy.action_params.get("timeout_seconds") if decision.policy else None
    opens = Opens(next_id(now.wall), question.action_sha256, seconds or APPROVAL_SECONDS)
    return Asking("", wire.AwaitedApproval(opens.approval_id, now.wall + opens.timeout_seconds), opens)
