"""Lists of approvals: filtered pages, overdue ones, and the number of pending ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.access.keys import Caller, Role
from registry_store.approvals.approvals import RUNNING, ApprovalState, names_of
from registry_store.database.tables import Approval


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of approvals; None: any. `decidable_by`: only those that this caller may decide."""

    state: ApprovalState | None = None
    agent_id: str | None = None
    decidable_by: Caller | None = None


async def page(
    session: AsyncSession, wanted: Filter, now: datetime, limit: int, offset: int
) -> tuple[Sequence[Approval], int]:
    """A page of the approvals, newest first, and the total."""
    conditions = _conditions(session, wanted, now)
    total = await session.scalar(select(func.count()).select_from(Approval).where(*conditions))
    newest_first = select(Approval).where(*conditions).order_by(Approval.approval_id.desc())
    rows = await session.scalars(newest_first.limit(limit).offset(offset))
    return rows.all(), total or 0


async def overdue(session: AsyncSession, now: datetime, maximum: int) -> Sequence[Approval]:
    """At most `maximum` approvals that are overdue and not marked as expired, the longest overdue first."""
    rows = select(Approval).where(_is_overdue(now)).order_by(Approval.expires_at).limit(maximum)
    return (await session.scalars(rows)).all()


async def count_pending(session: AsyncSession, now: datetime) -> int:
    """The number of pending approvals."""
    pending = select(func.count()).select_from(Approval).where(_is(ApprovalState.PENDING, now))
    return await session.scalar(pending) or 0


def _conditions(session: AsyncSession, wanted: Filter, now: datetime) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.state is not None:
        conditions.append(_is(wanted.state, now))
    if wanted.agent_id is not None:
        conditions.append(Approval.agent_id == wanted.agent_id)
    if wanted.decidable_by is not None:
        conditions.append(_may_decide(wanted.decidable_by, session.get_bind().dialect.name))
    return conditions


def _is(state: ApprovalState, now: datetime) -> ColumnElement[bool]:
    marked = Approval.status == state.value
    if state is ApprovalState.EXPIRED:
        return or_(marked, _is_overdue(now))
    return and_(marked, Approval.expires_at > now) if state.value in RUNNING else marked


def _is_overdue(now: datetime) -> ColumnElement[bool]:
    return and_(Approval.status.in_(RUNNING), Approval.expires_at <= now)


def _may_decide(caller: Caller, dialect: str) -> ColumnElement[bool]:
    """The check of `approvals.check_may_decide`, in SQL."""
    if caller.role is not Role.APPROVER:
        return true() if caller.role is Role.ADMIN else false()
    names = names_of(caller)
    elements: Any = func.json_each if dialect == "sqlite" else func.jsonb_array_elements_text
    approver = elements(Approval.approvers).table_valued("value")
    anyone = and_(~exists(select(1).select_from(approver)), Approval.team.is_(None))
    by_name = exists(select(1).select_from(approver).where(approver.c.value.in_(names)))
    return or_(anyone, Approval.team.in_(names), by_name)
