"""Lists of approvals: filtered pages, overdue ones, and the number of pending ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, false, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.access.keys import DECIDING_ROLES, Caller, Role
from registry_store.approvals.approvals import ESCALATE, IS_PENDING, RUNNING, ApprovalState
from registry_store.approvals.deciding import names_of
from registry_store.database import paging
from registry_store.database.tables import Approval


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of approvals; None: any. `decidable_by`: only those that are for this caller to decide.

    `waits_for`: only those that wait for this caller now. `approver_mfa`: what needs MFA needs a key with MFA.
    """

    state: ApprovalState | None = None
    agent_id: str | None = None
    decidable_by: Caller | None = None
    waits_for: Caller | None = None
    approver_mfa: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A page of pending approvals, each with whether it waits for the caller; `for_me` of the `total` do."""

    rows: Sequence[tuple[Approval, bool]]
    for_me: int
    total: int


async def page(
    session: AsyncSession, wanted: Filter, now: datetime, limit: int, offset: int
) -> tuple[Sequence[Approval], int]:
    """A page of the approvals, newest first, and the total."""
    found = select(Approval).where(*_conditions(session, wanted, now))
    return await paging.page(session, found.order_by(Approval.approval_id.desc()), limit, offset)


async def waiting(
    session: AsyncSession, caller: Caller, now: datetime, limit: int, offset: int, *, approver_mfa: bool
) -> Waiting:
    """A page of the pending approvals: first those that wait for this caller, then by how soon they expire."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    is_pending = _is(ApprovalState.PENDING, now)
    is_for_me = case((and_(*_waits_for(caller, now, is_sqlite, approver_mfa=approver_mfa)), 1), else_=0)
    counted = select(func.count(), func.sum(is_for_me)).select_from(Approval).where(is_pending)
    total, for_me = (await session.execute(counted)).one()
    first = (
        select(Approval, is_for_me)
        .where(is_pending)
        .order_by(is_for_me.desc(), Approval.expires_at, Approval.approval_id)
    )
    rows = (await session.execute(first.limit(limit).offset(offset))).all()
    return Waiting([(approval, bool(mine)) for approval, mine in rows], int(for_me or 0), total)


async def overdue(session: AsyncSession, now: datetime, maximum: int) -> Sequence[Approval]:
    """At most `maximum` approvals that are overdue and not marked as expired, the longest overdue first."""
    rows = select(Approval).where(_is_overdue(now)).order_by(Approval.expires_at).limit(maximum)
    return (await session.scalars(rows)).all()


async def pending(session: AsyncSession, now: datetime) -> tuple[int, datetime | None]:
    """The number of pending approvals, and when the oldest of them was requested."""
    found = select(func.count(), func.min(Approval.requested_at)).where(_is(ApprovalState.PENDING, now))
    count, oldest = (await session.execute(found)).one()
    return count, oldest


def _conditions(session: AsyncSession, wanted: Filter, now: datetime) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.state is not None:
        conditions.append(_is(wanted.state, now))
    if wanted.agent_id is not None:
        conditions.append(Approval.agent_id == wanted.agent_id)
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    if wanted.decidable_by is not None:
        conditions.append(_may_decide(wanted.decidable_by, is_sqlite))
    if wanted.waits_for is not None:
        conditions += _waits_for(wanted.waits_for, now, is_sqlite, approver_mfa=wanted.approver_mfa)
    return conditions


def _is(state: ApprovalState, now: datetime) -> ColumnElement[bool]:
    marked = Approval.status == state.value
    waits_for_next_team = and_(IS_PENDING, Approval.next_team.is_not(None))
    if state is ApprovalState.EXPIRED:
        return or_(marked, and_(_is_overdue(now), ~waits_for_next_team))
    return and_(marked, or_(Approval.expires_at > now, waits_for_next_team)) if state.value in RUNNING else marked


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(Approval.status.in_(RUNNING), Approval.expires_at <= now)


def _waits_for(caller: Caller, now: datetime, is_sqlite: bool, *, approver_mfa: bool) -> list[ColumnElement[bool]]:
    """Whether a decision of the caller would be accepted now; one who has approved already waits for another person."""
    elements: Any = func.json_each if is_sqlite else func.jsonb_array_elements
    name_of: Any = func.json_extract if is_sqlite else func.jsonb_extract_path_text
    vote = elements(Approval.approved_by).table_valued("value")
    name = name_of(vote.c.value, "$.name" if is_sqlite else "name")
    has_voted = exists(select(1).select_from(vote).where(name == caller.name))
    conditions = [IS_PENDING, Approval.expires_at > now, _may_decide(caller, is_sqlite), ~has_voted]
    if approver_mfa and not caller.mfa:
        conditions.append(Approval.mfa_required.is_(False))
    return conditions


def _may_decide(caller: Caller, is_sqlite: bool) -> ColumnElement[bool]:
    """The check of `deciding.check_may_decide`, in SQL and without MFA."""
    if caller.role not in DECIDING_ROLES:
        return false()
    is_admin = caller.role is Role.ADMIN
    is_escalation = Approval.outcome == ESCALATE
    in_team = Approval.team.in_(caller.groups)
    of_team = or_(in_team, Approval.team.is_(None)) if is_admin else in_team
    named = true() if is_admin else _is_named(caller, is_sqlite)
    return or_(and_(is_escalation, of_team), and_(~is_escalation, named))


def _is_named(caller: Caller, is_sqlite: bool) -> ColumnElement[bool]:
    """Whether it names the caller's key or one of its groups, or nobody."""
    names = names_of(caller)
    elements: Any = func.json_each if is_sqlite else func.jsonb_array_elements_text
    approver = elements(Approval.approvers).table_valued("value")
    anyone = and_(~exists(select(1).select_from(approver)), Approval.team.is_(None))
    by_name = exists(select(1).select_from(approver).where(approver.c.value.in_(names)))
    return or_(anyone, Approval.team.in_(names), by_name)
