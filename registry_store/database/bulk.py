"""Inserts and deletes of many rows in one transaction, without an object for each row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Insert, Table, bindparam, delete, func, insert, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry_store.database.tables import Base
from registry_store.database.transactions import inserting

CHUNK = 1_000
"""Rows of one statement; the event loop does other work between two statements."""
MAX_ROWS_PER_EXECUTION = 100
"""Rows that are bound one by one, so that preparing them does not block the event loop for long."""

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """Splits the items into sequences of up to `size`, in order."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


async def insert_all(
    session: AsyncSession, entity: type[Base], same: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Inserts rows with the same columns, generated on demand; `same` holds the values that all rows share."""
    table = Base.metadata.tables[entity.__tablename__]
    in_arrays = session.get_bind().dialect.name == "postgresql"
    for chunk in chunks(rows):
        if in_arrays:
            await session.execute(_of_arrays(table, same, chunk))
        else:
            await session.execute(insert(table).values(same), chunk)


async def insert_new(session: AsyncSession, entity: type[Base], rows: Iterable[Mapping[str, Any]]) -> Set[str]:
    """Inserts the rows that are not stored yet; returns the keys of the inserted rows. The key is one text column."""
    (key,) = Base.metadata.tables[entity.__tablename__].primary_key.columns
    adding = inserting(session, entity).on_conflict_do_nothing().returning(key)
    connection = await session.connection()
    added: set[str] = set()
    for chunk in chunks(rows, MAX_ROWS_PER_EXECUTION):
        added.update((await connection.execute(adding, chunk)).scalars())
    return added


async def delete_oldest(
    session: AsyncSession,
    entity: type[Base],
    maximum: int,
    *conditions: ColumnElement[bool],
    by: InstrumentedAttribute[Any],
) -> int:
    """Deletes the first `maximum` rows, in the order of `by`, that meet the conditions; returns the number deleted."""
    key = Base.metadata.tables[entity.__tablename__].primary_key.columns
    oldest = select(*key).where(*conditions).order_by(by).limit(maximum)
    deleted = await session.execute(
        delete(entity).where(tuple_(*key).in_(oldest)).returning(*key),
        execution_options={"synchronize_session": False},
    )
    return len(deleted.all())


def _of_arrays(table: Table, same: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Insert:
    """An insert with one array for each column: much faster than a message for each row."""
    names = list(rows[0])
    shared = [bindparam(None, value, table.c[name].type) for name, value in same.items()]
    arrays = [bindparam(None, [row[name] for row in rows], ARRAY(table.c[name].type)) for name in names]
    return insert(table).from_select([*same, *names], select(*shared, *map(func.unnest, arrays)))
