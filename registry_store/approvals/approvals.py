"""Approvals: a sidecar requests one, a person decides it or it expires, and it is used at most once."""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import Field, quote
from pdp.core.kinds import Text
from pdp.core.records import PROSE
from registry_store.access.keys import Caller, Role
from registry_store.approvals.requests import Request
from registry_store.database.tables import Activity, Approval
from registry_store.documents import Document, to_json
from registry_store.errors import ConflictError, NotAllowedError, NotFoundError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject

APPROVE_BODY: dict[str, Field] = {"comment": Field(PROSE, "", about="Why; the requester sees it")}
DENY_BODY: dict[str, Field] = {
    "comment": Field(
        Text(4096, 1, r"[\s\S]*\S[\s\S]*", "a text that says why"), required=True, about="Why; the requester sees it"
    )
}


class ApprovalState(Enum):
    """The state of an approval: pending → approved, denied or expired; approved → used or expired."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    USED = "used"


class Use(Enum):
    """The result of an attempt to use an approval."""

    GRANTED = "granted"
    MISMATCH = "mismatch"
    NOT_APPROVED = "not_approved"


class Claim(NamedTuple):
    """An attempt to use an approval for an action; a retry has the same `use_id`, another attempt has another."""

    agent_id: str
    action_sha256: bytes
    use_id: str


class ApprovalStatus(NamedTuple):
    """The status of an approval, as its watchers get it."""

    approval_id: str
    agent_id: str
    state: ApprovalState
    decided_by: str | None
    comment: str | None
    expires_at: datetime

    def at(self, now: datetime) -> "ApprovalStatus":
        """The same at `now`, when it may have expired."""
        return self._replace(state=_state(self.state.value, self.expires_at, now))

    @property
    def final(self) -> bool:
        """Whether the state cannot change any more."""
        return self.state.value not in RUNNING


RUNNING = (ApprovalState.PENDING.value, ApprovalState.APPROVED.value)
"""States that can expire."""


async def open_requested(
    session: AsyncSession, node_id: str, requests: Sequence[Request], at: datetime
) -> list[Approval]:
    """Open the requested approvals that do not exist yet, the first of each id; returns the new ones.

    The session holds the writers' lock. The time to decide starts at `at`, not when the sidecar made the request.
    """
    requested: dict[str, Request] = {}
    for request in requests:
        requested.setdefault(request.approval_id, request)
    known = set(await session.scalars(select(Approval.approval_id).where(Approval.approval_id.in_(requested))))
    opened = [_opened(request, node_id, at) for approval_id, request in requested.items() if approval_id not in known]
    actor = Actor(node_id, "system", at)
    for approval in opened:
        session.add(approval)
        described = f"approval of {_subject_of(approval)} requested"
        await _note(session, approval, actor, "approval_requested", described, new=_request_fields(approval))
    return opened


async def get(session: AsyncSession, approval_id: str) -> Approval:
    """The approval with this id; `NotFoundError` if there is none."""
    approval = await session.get(Approval, approval_id)
    if approval is None:
        raise NotFoundError(f"no approval `{approval_id}`")
    return approval


def check_may_decide(approval: Approval, caller: Caller) -> None:
    """Raise `NotAllowedError` unless the caller is an admin, or an approver who may decide this approval.

    The keys and groups that an approval names may decide it; if it names nobody, every approver may.
    """
    named = _named(approval)
    if caller.role is Role.ADMIN or (caller.role is Role.APPROVER and (not named or named & names_of(caller))):
        return
    raise NotAllowedError(f"approval `{approval.approval_id}` is for {', '.join(map(quote, sorted(named)))} to decide")


def names_of(caller: Caller) -> set[str]:
    """The caller's key name and groups, which an approval can name."""
    return {caller.name, *caller.groups}


async def approve(session: AsyncSession, approval: Approval, comment: str, actor: Actor) -> None:
    """Allow the action once, within the approval's timeout from now; `ConflictError` unless it is pending."""
    _check_pending(approval, actor.at)
    until = actor.at + timedelta(seconds=approval.timeout_seconds)
    await _decide(session, approval, ApprovalState.APPROVED, comment, actor, expires_at=until)


async def deny(session: AsyncSession, approval: Approval, comment: str, actor: Actor) -> None:
    """Deny the action; `ConflictError` unless the approval is pending."""
    _check_pending(approval, actor.at)
    await _decide(session, approval, ApprovalState.DENIED, comment, actor)


def judge(approval: Approval, claim: Claim, now: datetime) -> Use:
    """The result of the claim; a retry with the same `use_id` is granted again."""
    sha256 = bytes.fromhex(approval.action_sha256)
    if approval.agent_id != claim.agent_id or not hmac.compare_digest(sha256, claim.action_sha256):
        return Use.MISMATCH
    if approval.use_id is not None:
        again = hmac.compare_digest(approval.use_id.encode(), claim.use_id.encode())
        return Use.GRANTED if again else Use.NOT_APPROVED
    return Use.GRANTED if state_of(approval, now) is ApprovalState.APPROVED else Use.NOT_APPROVED


async def use(session: AsyncSession, approval: Approval, claim: Claim, actor: Actor) -> Use:
    """Mark the approval as used if the claim is granted; the session holds the writers' lock."""
    result = judge(approval, claim, actor.at)
    if result is Use.GRANTED and approval.use_id is None:
        approval.use_id = claim.use_id
        described = f"approval of {_subject_of(approval)} used"
        await _move(session, approval, ApprovalState.USED, actor, described, used_at=actor.at)
    return result


async def expire(session: AsyncSession, due: Sequence[Approval], actor: Actor) -> None:
    """Mark these overdue approvals as expired; the session holds the writers' lock."""
    for approval in due:
        why = "was not used" if approval.status == ApprovalState.APPROVED.value else "nobody decided"
        described = f"approval of {_subject_of(approval)} expired: {why} in time"
        await _move(session, approval, ApprovalState.EXPIRED, actor, described)


async def statuses(session: AsyncSession, approval_ids: Sequence[str], now: datetime) -> list[ApprovalStatus]:
    """The statuses of these approvals; unknown ids are omitted."""
    columns = (Approval.agent_id, Approval.status, Approval.decided_by, Approval.comment, Approval.expires_at)
    rows = await session.execute(select(Approval.approval_id, *columns).where(Approval.approval_id.in_(approval_ids)))
    return [ApprovalStatus(row[0], row[1], ApprovalState(row[2]), *row[3:]).at(now) for row in rows]


async def changed_since(session: AsyncSession, sequence: int) -> set[str]:
    """The ids of the approvals that have an activity entry after `sequence`."""
    changed = select(Activity.subject_id).where(Activity.sequence > sequence, Activity.subject_kind == "approval")
    return set(await session.scalars(changed))


def status_of(approval: Approval, now: datetime) -> ApprovalStatus:
    """The status of the approval at `now`."""
    state = state_of(approval, now)
    return ApprovalStatus(
        approval.approval_id, approval.agent_id, state, approval.decided_by, approval.comment, approval.expires_at
    )


def state_of(approval: Approval, now: datetime) -> ApprovalState:
    """The state at `now`: an overdue approval is expired, even if it is not marked yet."""
    return _state(approval.status, approval.expires_at, now)


def document(approval: Approval, now: datetime) -> Document:
    """The approval as REST shows it at `now`."""
    shown = {column.key: getattr(approval, column.key) for column in Approval.__table__.columns}
    del shown["use_id"]
    return Document(to_json(shown | {"status": state_of(approval, now).value}))


async def _decide(
    session: AsyncSession, approval: Approval, state: ApprovalState, comment: str, actor: Actor, **changed: Any
) -> None:
    described = f"{_subject_of(approval)} {state.value}" + (f": {comment}" if comment else "")
    changed |= {"decided_at": actor.at, "decided_by": actor.name, "comment": comment or None}
    await _move(session, approval, state, actor, described, **changed)


async def _move(
    session: AsyncSession, approval: Approval, state: ApprovalState, actor: Actor, described: str, **changed: Any
) -> None:
    new = {"status": state.value} | changed
    previous = {name: getattr(approval, name) for name in new}
    for name, value in new.items():
        setattr(approval, name, value)
    await _note(session, approval, actor, f"approval_{state.value}", described, previous=previous, new=new)


async def _note(
    session: AsyncSession, approval: Approval, actor: Actor, activity_type: str, described: str, **states: Any
) -> None:
    subject = Subject("approval", approval.approval_id, approval.agent_id)
    await activity.append(session, actor, activity_type, described, subject, **states)


def _opened(request: Request, node_id: str, at: datetime) -> Approval:
    return Approval(
        **request._asdict(),
        requested_at=at,
        expires_at=at + timedelta(seconds=request.timeout_seconds),
        node_id=node_id,
        status=ApprovalState.PENDING.value,
    )


def _request_fields(approval: Approval) -> Document:
    # The action itself is left out: it may hold data that must not stay in the log for ever. Its hash identifies it.
    names = ("decision_id", "status", "outcome", "reason", "policy", "approvers", "team", "action_sha256", "expires_at")
    return {name: getattr(approval, name) for name in names}


def _subject_of(approval: Approval) -> str:
    """A short description of the action."""
    resource = approval.action.get("resource")
    on = f" on {quote(resource)}" if resource else ""
    return f"{quote(approval.action['action_type'])}{on} by `{approval.agent_id}`"


def _check_pending(approval: Approval, now: datetime) -> None:
    state = state_of(approval, now)
    if state is not ApprovalState.PENDING:
        raise ConflictError(f"approval `{approval.approval_id}` is {state.value}")


def _state(status: str, expires_at: datetime, now: datetime) -> ApprovalState:
    return ApprovalState.EXPIRED if status in RUNNING and now >= expires_at else ApprovalState(status)


def _named(approval: Approval) -> set[str]:
    return {*approval.approvers, *([approval.team] if approval.team else [])}
