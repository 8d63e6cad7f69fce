"""Which agents a list shows: found by index alone, and counted without looking at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.tables import Agent, AgentCount, AgentTag

EVERY_TAG = ""
"""Under which `agent_counts` has all agents; no tag is empty."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which agents a list shows; None: any."""

    status: str | None = None
    agent_type: str | None = None
    tag: str | None = None


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> tuple[Sequence[Agent], int]:
    """Agents by id, `limit` from `offset` on, and how many there are in all."""
    total = await count(session, wanted)
    ids = await _ids(session, wanted, limit, offset, total)
    rows = await session.scalars(select(Agent).where(Agent.agent_id.in_(ids)).order_by(Agent.agent_id))
    return rows.all(), total


async def count(session: AsyncSession, wanted: Filter) -> int:
    """How many agents there are."""
    if wanted.tag == EVERY_TAG:
        return 0
    tag = EVERY_TAG if wanted.tag is None else wanted.tag
    counted = select(func.sum(AgentCount.agents)).where(AgentCount.tag == tag, *_conditions(wanted, AgentCount))
    return int(await session.scalar(counted) or 0)


async def drop_empty_counts(session: AsyncSession) -> None:
    """Delete the counts of what no agent is any more."""
    await session.execute(delete(AgentCount).where(AgentCount.agents == 0))


async def _ids(session: AsyncSession, wanted: Filter, limit: int, offset: int, total: int) -> list[str]:
    """The ids of a page; whichever end is nearer is where the database begins to leave out."""
    source: Any = Agent if wanted.tag is None else AgentTag
    found = select(source.agent_id).where(*_conditions(wanted, source))
    if wanted.tag is not None:
        found = found.where(AgentTag.tag == wanted.tag)
    size = min(limit, total - offset)
    if size <= 0:
        return []
    behind = total - offset - size
    if behind < offset:
        found = found.order_by(source.agent_id.desc()).offset(behind)
    else:
        found = found.order_by(source.agent_id).offset(offset)
    return list(await session.scalars(found.limit(size)))


def _conditions(wanted: Filter, source: Any) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.status is not None:
        conditions.append(source.status == wanted.status)
    if wanted.agent_type is not None:
        conditions.append(source.agent_type == wanted.agent_type)
    return conditions
