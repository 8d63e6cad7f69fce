"""Many rows in one transaction: no object for each, and no statement that takes long."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Insert, Table, bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.tables import Base

CHUNK = 1_000
"""Rows of one statement; between two of them the store sees to its other work."""

Item = TypeVar("Item")


def chunks(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    """The items in their order, `CHUNK` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


async def insert_all(
    session: AsyncSession, entity: type[Base], same: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Insert rows, made as they are needed, of the same columns each; `same` are the values that all of them share."""
    table = Base.metadata.tables[entity.__tablename__]
    in_arrays = session.get_bind().dialect.name == "postgresql"
    for chunk in chunks(rows):
        if in_arrays:
            await session.execute(_of_arrays(table, same, chunk))
        else:
            await session.execute(insert(table).values(same), chunk)


def _of_arrays(table: Table, same: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Insert:
    """One array for each column, which the server takes in far less time than a message for each row."""
    names = list(rows[0])
    shared = [bindparam(None, value, table.c[name].type) for name, value in same.items()]
    arrays = [bindparam(None, [row[name] for row in rows], ARRAY(table.c[name].type)) for name in names]
    return insert(table).from_select([*same, *names], select(*shared, *map(func.unnest, arrays)))
