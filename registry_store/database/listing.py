"""Lists of agents and their counts, both read from indexes only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.tables import Agent, AgentTag


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the agents of a list; None: any."""

    status: str | None = None
    agent_type: str | None = None
    tag: str | None = None


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> tuple[Sequence[Agent], int]:
    """A page of agents, by id, and the total count."""
    source: Any = Agent if wanted.tag is None else AgentTag
    conditions = _conditions(wanted, source)
    total = await session.scalar(select(func.count()).select_from(source).where(*conditions)) or 0
    size = min(limit, total - offset)
    if size <= 0:
        return [], total
    found = select(source.agent_id).where(*conditions).limit(size)
    # Start from the nearer end, so that the database skips fewer rows.
    behind = total - offset - size
    if behind < offset:
        found = found.order_by(source.agent_id.desc()).offset(behind)
    else:
        found = found.order_by(source.agent_id).offset(offset)
    ids = (await session.scalars(found)).all()
    rows = await session.scalars(select(Agent).where(Agent.agent_id.in_(ids)).order_by(Agent.agent_id))
    return rows.all(), total


def _conditions(wanted: Filter, source: Any) -> list[ColumnElement[bool]]:
    values = {"status": wanted.status, "agent_type": wanted.agent_type, "tag": wanted.tag}
    return [getattr(source, name) == value for name, value in values.items() if value is not None]
