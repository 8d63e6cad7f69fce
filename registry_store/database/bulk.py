"""Inserts and deletes of many rows in one transaction, without an object for each row."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import asyncpg
from sqlalchemy import ColumnElement, Insert, Table, bindparam, delete, func, insert, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from registry_store.database.columns import EPOCH, Base, Instant

CHUNK = 1_000
"""Rows of one statement; the event loop does other work between two statements."""
MAX_ROWS_PER_EXECUTION = 100
"""Rows that are bound one by one, so that preparing them does not block the event loop for long."""
SQLITE_VARIABLES = 999
"""Values of one statement for SQLite: the least that any version takes."""
MICROSECOND = timedelta(microseconds=1)

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


class Rows(NamedTuple):
    """Rows for `add_rows`, with values as the database's driver takes them."""

    table: str
    columns: Sequence[str]
    values: Sequence[tuple[Any, ...]]


def rows_of(entity: type[Base], columns: Mapping[str, Sequence[Any]], dialect: str) -> Rows:
    """The rows with these columns; a time may also be a number of microseconds since 1970, which takes less time.

    A column without any value is left out, because it costs as much as another one.
    """
    table = Base.metadata.tables[entity.__tablename__]
    moments = _texts if dialect == "sqlite" else _moments
    given = {
        name: moments(values) if isinstance(table.c[name].type, Instant) else values
        for name, values in columns.items()
        if values.count(None) < len(values)
    }
    return Rows(entity.__tablename__, tuple(given), list(zip(*given.values(), strict=True)))


class DuplicateError(Exception):
    """A row with one of these keys is stored already; the savepoint must be rolled back."""


async def add_rows(session: AsyncSession, rows: Rows) -> None:
    """Adds rows by the database's shortest way, past SQLAlchemy: `COPY`, or statements of many rows.

    `DuplicateError` if one is stored already. The session is in a savepoint, and has executed a statement before.
    """
    if not rows.values:
        return
    connection = await session.connection()
    if connection.dialect.name == "postgresql":
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            await driver.copy_records_to_table(rows.table, records=rows.values, columns=rows.columns)
        except asyncpg.UniqueViolationError as error:
            raise DuplicateError(str(error)) from error
        return
    try:
        for statement, values in _statements(rows):
            await connection.exec_driver_sql(statement, values)
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


def _statements(rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    """Statements for SQLite, each with the values of its executions: of many rows, and of one row for those left over.

    Whatever it inserts, a statement prepares for every index of its table, which takes longer than a row.
    """
    together = SQLITE_VARIABLES // len(rows.columns)
    whole = len(rows.values) - len(rows.values) % together
    row = f"({', '.join('?' * len(rows.columns))})"
    start = f"INSERT INTO {rows.table} ({', '.join(rows.columns)}) VALUES "  # noqa: S608 - names of this program
    if whole:
        starts = range(0, whole, together)
        yield start + ", ".join([row] * together), [tuple(chain(*rows.values[at : at + together])) for at in starts]
    if whole < len(rows.values):
        yield start + row, list(rows.values[whole:])


def _texts(times: Iterable[datetime | int]) -> list[str]:
    """Times as SQLite has them; those of one second share most of their text."""
    return [f"{second}.{rest:06d}" for second, rest in _by_second(times, lambda moment: moment.isoformat(" ")[:19])]


def _moments(times: Iterable[datetime | int]) -> list[datetime]:
    return [second.replace(microsecond=rest) for second, rest in _by_second(times, lambda moment: moment)]


def _by_second(times: Iterable[datetime | int], made: Callable[[datetime], Item]) -> Iterator[tuple[Item, int]]:
    """For each time what is made of its second, once for each second, and the microseconds after it."""
    seconds: dict[int, Item] = {}
    for moment in times:
        micros = (moment - EPOCH) // MICROSECOND if isinstance(moment, datetime) else moment
        second, rest = divmod(micros, 1_000_000)
        found = seconds.get(second)
        if found is None:
            found = seconds[second] = made(EPOCH + timedelta(seconds=second))
        yield found, rest
