"""Decisions of people on approvals: who may decide, and what one person's approval or denial does."""

from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.fields import Field, quote
from pdp.core.kinds import Text
from pdp.core.records import PROSE
from registry_store.access.keys import DECIDING_ROLES, Caller, Role
from registry_store.approvals import approvals
from registry_store.approvals.approvals import ESCALATE, ApprovalState
from registry_store.database.tables import Approval
from registry_store.documents import to_json
from registry_store.errors import ConflictError, NotAllowedError
from registry_store.journal.activity import Actor

APPROVE_BODY: dict[str, Field] = {
    "comment": Field(PROSE, "", about="Why; the requester sees it. Required for an escalation")
}
DENY_BODY: dict[str, Field] = {
    "comment": Field(
        Text(4096, 1, r"[\s\S]*\S[\s\S]*", "a text that says why"), required=True, about="Why; the requester sees it"
    )
}


class Verdict(Enum):
    """What a person decides."""

    APPROVE = "approve"
    DENY = "deny"


async def decide(
    session: AsyncSession,
    approval: Approval,
    verdict: Verdict,
    caller: Caller,
    actor: Actor,
    *,
    comment: str,
    approver_mfa: bool,
) -> None:
    """One person's decision on a pending approval; the session holds the writers' lock.

    The first denial denies it. It is approved, for one use within its timeout from now, once `min_approvers` people
    have approved it; a person is the name of a key. `NotAllowedError` if the caller may not decide it,
    `ConflictError` if it is not pending or this person has approved it already, `InvalidRecordError` if an escalation
    has no comment. `approver_mfa`: an action that needs MFA needs a key that was made with MFA.
    """
    if approvals.is_to_hand_over(approval, actor.at):
        await approvals.end_overdue(session, [approval], Actor("system", "system", actor.at))
    check_may_decide(approval, caller, approver_mfa=approver_mfa)
    state = approvals.state_of(approval, actor.at)
    if state is not ApprovalState.PENDING:
        raise ConflictError(f"approval `{approval.approval_id}` is {state.value}")
    if not comment.strip() and (approval.outcome == ESCALATE or verdict is Verdict.DENY):
        raise InvalidRecordError([Problem("comment", "is required")])
    if verdict is Verdict.DENY:
        await _settle(session, approval, ApprovalState.DENIED, comment, actor)
    else:
        await _approve(session, approval, comment, actor)


def check_may_decide(approval: Approval, caller: Caller, *, approver_mfa: bool) -> None:
    """Raise `NotAllowedError` unless the caller's key may decide this approval.

    An escalation is decided by the keys of its team and no other, without a team by admins. Anything else is decided by
    admins, and by the approvers whose key or group it names; by every approver if it names nobody.
    """
    name = f"approval `{approval.approval_id}`"
    if not _may_decide(approval, caller):
        raise NotAllowedError(f"{name} is for {_deciders(approval)} to decide")
    if approver_mfa and approval.mfa_required and not caller.mfa:
        raise NotAllowedError(f"{name} needs MFA: only a key that was made with `--mfa` may decide it")


def names_of(caller: Caller) -> set[str]:
    """The caller's key name and groups, which an approval can name."""
    return {caller.name, *caller.groups}


def _may_decide(approval: Approval, caller: Caller) -> bool:
    if caller.role not in DECIDING_ROLES:
        return False
    is_admin = caller.role is Role.ADMIN
    if approval.outcome == ESCALATE:
        return approval.team in caller.groups if approval.team else is_admin
    named = _named(approval)
    return is_admin or not named or not named.isdisjoint(names_of(caller))


def _named(approval: Approval) -> set[str]:
    return {*approval.approvers, *([approval.team] if approval.team else [])}


def _deciders(approval: Approval) -> str:
    if approval.outcome == ESCALATE:
        return f"team {quote(approval.team)}" if approval.team else "admins"
    return ", ".join(map(quote, sorted(_named(approval)))) or "approvers"


async def _approve(session: AsyncSession, approval: Approval, comment: str, actor: Actor) -> None:
    if any(one["name"] == actor.name for one in approval.approved_by):
        raise ConflictError(f"{quote(actor.name)} has approved `{approval.approval_id}` already: another person must")
    approved_by = [*approval.approved_by, to_json({"name": actor.name, "comment": comment or None, "at": actor.at})]
    if len(approved_by) >= approval.min_approvers:
        until = actor.at + timedelta(seconds=approval.timeout_seconds)
        await _settle(
            session, approval, ApprovalState.APPROVED, comment, actor, expires_at=until, approved_by=approved_by
        )
        return
    described = f"{approvals.subject_of(approval)} approved by {len(approved_by)} of {approval.min_approvers} people"
    await approvals.change(
        session, approval, actor, "approval_voted", _with(comment, described), approved_by=approved_by
    )


async def _settle(
    session: AsyncSession, approval: Approval, state: ApprovalState, comment: str, actor: Actor, **changed: Any
) -> None:
    described = _with(comment, f"{approvals.subject_of(approval)} {state.value}")
    changed |= {"decided_at": actor.at, "decided_by": actor.name, "comment": comment or None}
    await approvals.move(session, approval, state, actor, described, **changed)


def _with(comment: str, described: str) -> str:
    return f"{described}: {comment}" if comment else described
