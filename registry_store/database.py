"""Transactions on SQLite and PostgreSQL: many readers, each at one moment; one writer at a time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import URL, event, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from registry_store.tables import Meta

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout, ConnectionError, TimeoutError)
"""What a lost or overloaded database raises."""

POOL_WAIT_SECONDS = 10
SQLITE_BUSY_MILLISECONDS = 10_000


class Database:
    """The engines of one database; `on_commit` is called after each committed write."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader = _sqlite(url, "BEGIN", pool_size=8)
            self._writer = _sqlite(url, "BEGIN IMMEDIATE", pool_size=1)
        else:
            self._writer = create_async_engine(
                url, pool_size=10, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS, pool_pre_ping=True
            )
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.on_commit: Callable[[], None] = _nothing

    @property
    def engine(self) -> AsyncEngine:
        """The engine that writes."""
        return self._writer

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that sees the database at one moment, however long it reads."""
        async with AsyncSession(self._reader, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A session that no other writer overlaps: committed on leaving, rolled back on any exception.

        SQLite holds off other writers by `BEGIN IMMEDIATE`, PostgreSQL by the lock on the row of `meta`. What is
        checked inside therefore still holds when it is written.
        """
        async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
            await session.execute(select(Meta).with_for_update())
            yield session
        self.on_commit()

    async def close(self) -> None:
        """Give every connection back."""
        await self._reader.dispose()
        await self._writer.dispose()


def is_unavailable(error: BaseException) -> bool:
    """Whether the database, and not the statement, is at fault."""
    return isinstance(error, UNAVAILABLE) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _sqlite(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS)

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions; `begin` below does
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {SQLITE_BUSY_MILLISECONDS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _nothing() -> None:
    """No one waits for commits yet."""
