"""Pages of a list, with the count of the whole list."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

Row = TypeVar("Row")


async def page(session: AsyncSession, query: Select[Row], limit: int | None, offset: int) -> tuple[Sequence[Row], int]:
    """A page of the rows of a query, which gives their order, and the total count; None: no limit."""
    counted = select(func.count()).select_from(*query.columns_clause_froms)
    if query.whereclause is not None:
        counted = counted.where(query.whereclause)
    total = await session.scalar(counted)
    return (await session.scalars(query.limit(limit).offset(offset))).all(), total or 0
