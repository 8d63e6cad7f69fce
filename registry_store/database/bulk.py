"""Inserts and deletes of many rows in one transaction, without an object for each row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import ColumnElement, Insert, Table, bindparam, delete, func, insert, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry_store.database.columns import Base, Instant

CHUNK = 1_000
"""Rows of one statement; the event loop does other work between two statements."""
MAX_ROWS_PER_EXECUTION = 100
"""Rows that are bound one by one, so that preparing them does not block the event loop for long."""

_WITHOUT_OFFSET = len("2030-01-31 12:00:00.000000")

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


class DuplicateError(Exception):
    """A row with one of these keys is stored already; the savepoint must be rolled back."""


async def add_rows(
    session: AsyncSession, entity: type[Base], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Adds rows by the database's shortest way, past SQLAlchemy: `COPY`, or one statement that is executed for each.

    `DuplicateError` if one is stored already. The session is in a savepoint, and has executed a statement before.
    """
    if not rows:
        return
    connection = await session.connection()
    name = entity.__tablename__
    if connection.dialect.name == "postgresql":
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            await driver.copy_records_to_table(name, records=rows, columns=columns)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateError(str(error)) from error
        return
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of this program
    try:
        await connection.exec_driver_sql(statement, _with_texts(entity, columns, rows))
    except IntegrityError as error:
        raise DuplicateError(str(error.orig)) from error


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


def _with_texts(entity: type[Base], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows with times as SQLite has them."""
    table = Base.metadata.tables[entity.__tablename__]
    places = [place for place, name in enumerate(columns) if isinstance(table.c[name].type, Instant)]
    changed = []
    for row in rows:
        values = list(row)
        for place in places:
            moment: datetime | None = values[place]
            if moment is not None:
                utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
                values[place] = utc.isoformat(" ", "microseconds")[:_WITHOUT_OFFSET]
        changed.append(tuple(values))
    return changed
