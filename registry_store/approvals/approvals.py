"""Approvals: a sidecar requests one, people decide it or it expires, and it is used at most once."""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import quote
from registry_store.alerts import causes
from registry_store.database.tables import Activity, Approval, ApprovalAlias
from registry_store.documents import Document, to_json
from registry_store.errors import NotFoundError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject

ESCALATE = "escalate"
"""The outcome of which the approvals are for a team to decide."""


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
    next_team: str | None = None

    def at(self, now: datetime) -> "ApprovalStatus":
        """The same at `now`, when it may have expired."""
        return self._replace(state=_state(self.state.value, self.expires_at, self.next_team, now))

    @property
    def final(self) -> bool:
        """Whether the state cannot change any more."""
        return self.state.value not in RUNNING


RUNNING = (ApprovalState.PENDING.value, ApprovalState.APPROVED.value)
"""States that can expire."""
IS_PENDING = Approval.status == literal_column("'pending'")
"""With the state as a constant, because the databases use the index of pending approvals only then."""


async def get(session: AsyncSession, approval_id: str) -> Approval:
    """The approval with this id, or for which this is another id; `NotFoundError` if there is none."""
    approval = await session.get(Approval, approval_id)
    if approval is None:
        alias = await session.get(ApprovalAlias, approval_id)
        approval = None if alias is None else await session.get(Approval, alias.approval_id)
    if approval is None:
        raise NotFoundError(f"no approval `{approval_id}`")
    return approval


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
        described = f"approval of {subject_of(approval)} used"
        await move(session, approval, ApprovalState.USED, actor, described, used_at=actor.at)
    return result


async def end_overdue(session: AsyncSession, due: Sequence[Approval], actor: Actor) -> list[Approval]:
    """Hand overdue pending approvals over to their next team, and expire the others; returns those that expired.

    The session holds the writers' lock.
    """
    undecided = [one for one in due if one.status == ApprovalState.PENDING.value and not is_to_hand_over(one, actor.at)]
    await causes.expired(session, undecided, actor.at)
    expired = []
    for approval in due:
        if is_to_hand_over(approval, actor.at):
            await _hand_over(session, approval, actor)
        else:
            await _expire(session, approval, actor)
            expired.append(approval)
    return expired


def is_to_hand_over(approval: Approval, now: datetime) -> bool:
    """Whether nobody decided in time and there is a next team to ask."""
    return approval.status == ApprovalState.PENDING.value and bool(approval.next_team) and approval.expires_at <= now


async def statuses(session: AsyncSession, approval_ids: Sequence[str], now: datetime) -> list[ApprovalStatus]:
    """The statuses of these approvals; unknown ids are omitted."""
    columns = (Approval.decided_by, Approval.comment, Approval.expires_at, Approval.next_team)
    found = select(Approval.approval_id, Approval.agent_id, Approval.status, *columns)
    rows = await session.execute(found.where(Approval.approval_id.in_(approval_ids)))
    return [ApprovalStatus(row[0], row[1], ApprovalState(row[2]), *row[3:]).at(now) for row in rows]


async def changed_since(session: AsyncSession, sequence: int) -> set[str]:
    """The ids of the approvals that have an activity entry after `sequence`."""
    changed = select(Activity.subject_id).where(Activity.sequence > sequence, Activity.subject_kind == "approval")
    return set(await session.scalars(changed))


def status_of(approval: Approval, now: datetime) -> ApprovalStatus:
    """The status of the approval at `now`."""
    state = state_of(approval, now)
    return ApprovalStatus(
        approval.approval_id,
        approval.agent_id,
        state,
        approval.decided_by,
        approval.comment,
        approval.expires_at,
        approval.next_team,
    )


def state_of(approval: Approval, now: datetime) -> ApprovalState:
    """The state at `now`: an overdue approval is expired, even if it is not marked yet; one with a next team waits."""
    return _state(approval.status, approval.expires_at, approval.next_team, now)


def document(approval: Approval, now: datetime) -> Document:
    """The approval as REST shows it at `now`."""
    shown = {column.key: getattr(approval, column.key) for column in Approval.__table__.columns}
    del shown["use_id"], shown["demand_sha256"]
    return Document(to_json(shown | {"status": state_of(approval, now).value}))


def subject_of(approval: Approval) -> str:
    """A short description of the action."""
    resource = approval.action.get("resource")
    on = f" on {quote(resource)}" if resource else ""
    return f"{quote(approval.action['action_type'])}{on} by `{approval.agent_id}`"


async def move(
    session: AsyncSession, approval: Approval, state: ApprovalState, actor: Actor, described: str, **changed: Any
) -> None:
    """Change the state, and other columns with it, with an activity entry."""
    changed = {"status": state.value} | changed
    await change(session, approval, actor, f"approval_{state.value}", described, **changed)


async def change(
    session: AsyncSession, approval: Approval, actor: Actor, activity_type: str, described: str, **changed: Any
) -> None:
    """Change columns of the approval, with an activity entry that has them before and after."""
    previous = {name: getattr(approval, name) for name in changed}
    for name, value in changed.items():
        setattr(approval, name, value)
    await note(session, approval, actor, activity_type, described, previous=previous, new=changed)


async def note(
    session: AsyncSession, approval: Approval, actor: Actor, activity_type: str, described: str, **states: Any
) -> None:
    """Append an activity entry on the approval."""
    subject = Subject("approval", approval.approval_id, approval.agent_id)
    await activity.append(session, actor, activity_type, described, subject, **states)


async def _expire(session: AsyncSession, approval: Approval, actor: Actor) -> None:
    why = "was not used" if approval.status == ApprovalState.APPROVED.value else "nobody decided"
    described = f"approval of {subject_of(approval)} expired: {why} in time"
    await move(session, approval, ApprovalState.EXPIRED, actor, described)


async def _hand_over(session: AsyncSession, approval: Approval, actor: Actor) -> None:
    """Ask the next team, with the whole time; what people of the first team said counts no longer."""
    team, until = approval.next_team, actor.at + timedelta(seconds=approval.timeout_seconds)
    described = f"approval of {subject_of(approval)} handed over to team {quote(team)}: nobody decided in time"
    changed: Document = {"team": team, "next_team": None, "approvers": [], "approved_by": [], "expires_at": until}
    await change(session, approval, actor, "approval_handed_over", described, **changed)


def _state(status: str, expires_at: datetime, next_team: str | None, now: datetime) -> ApprovalState:
    waits_for_next_team = status == ApprovalState.PENDING.value and next_team
    if status in RUNNING and now >= expires_at and not waits_for_next_team:
        return ApprovalState.EXPIRED
    return ApprovalState(status)
