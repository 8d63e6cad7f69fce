"""Transactions on SQLite and PostgreSQL: many readers, each with a snapshot, and one writer at a time."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL, Engine, Select, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from pdp.serving.backoff import Backoff
from registry_store.database.blocking import Blocking, Work
from registry_store.database.columns import Base
from registry_store.database.failures import is_conflict, reason_of
from registry_store.database.outages import Outage
from registry_store.database.tables import Meta

TRIES = 5
BACKOFF = Backoff(first=0.02, maximum=0.5)

ON_COMMIT = "on_commit"
"""Key in `session.info` of a writing transaction: a list of functions to call after the commit."""
CHANNEL = "registry_store"
"""Channel on which PostgreSQL notifies of every commit of a writer."""

POOL_WAIT_SECONDS = 10
SQLITE_BUSY_MILLISECONDS = 10_000
SQLITE_ENDINGS = ("-wal", "-shm", "-journal")
WRITERS, READERS = 5, 10
CONNECT_SECONDS = 5
COMMAND_SECONDS = 30
SESSION_SETTINGS = {
    "application_name": "registry-store",
    "lock_timeout": "10s",
    # A store that loses its connection must not keep the lock of the writers.
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
UNBOUNDED = {"lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}

Result = TypeVar("Result")


class Database:
    """The engines of one database; `on_commit` is called after each committed write.

    With `patient`, statements have no time-out: building an index may take longer than a request is allowed to.
    """

    def __init__(self, url: URL, *, patient: bool = False) -> None:
        self.url = url
        self.outage = Outage()
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader = _sqlite(url, "BEGIN", pool_size=8)
            self._writer = _sqlite(url, "BEGIN IMMEDIATE", pool_size=1)
            self._blocking_reader = _blocking(url, "BEGIN", pool_size=2)
            self._blocking_writer = _blocking(url, "BEGIN IMMEDIATE", pool_size=1)
        else:
            self._writer = _postgresql(url, "READ COMMITTED", WRITERS, patient)
            self._reader = _postgresql(url, "REPEATABLE READ", READERS, patient).execution_options(
                postgresql_readonly=True
            )
        # The end of a transaction that it begins is not cut short when its task is cancelled.
        self._transaction = async_sessionmaker(self._writer, expire_on_commit=False).begin
        self._turn = asyncio.Lock()
        self.on_commit: Callable[[], None] = _nothing

    @property
    def engine(self) -> AsyncEngine:
        """The engine of the writers."""
        return self._writer

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that reads one snapshot of the database."""
        with self.outage.watched():
            async with AsyncSession(self._reader, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A session that excludes other writers: committed on exit, rolled back on any exception.

        SQLite excludes other writers by `BEGIN IMMEDIATE`, PostgreSQL by the lock on the row of `meta`. So a condition
        that is checked in the session is still true at the commit. On PostgreSQL the commit wakes every store.
        """
        with self.outage.watched():
            async with self._in_turn(), self._transaction() as session:
                event.listen(session.sync_session, "after_commit", self._committed)
                locked = (await session.execute(self._lock())).one()  # kept, so that the session reads it only once
                yield session
                del locked

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[AsyncSession]:
        """A session for writes without a revision or log entry; on PostgreSQL it does not block writers."""
        with self.outage.watched():
            async with self._in_turn(), self._transaction() as session:
                yield session

    async def read_apart(self, work: Work[Result]) -> Result:
        """The result of `work` in a transaction as of `reading`, which on SQLite runs in a thread as a whole."""
        if not self.is_sqlite:
            async with self.reading() as session:
                return await work(session)
        with self.outage.watched():
            return await asyncio.to_thread(self._blocking_reader.reading, work)

    async def apart(self, work: Work[Result]) -> Result:
        """The result of `work` in a transaction as of `beside`, which on SQLite runs in a thread as a whole."""
        if not self.is_sqlite:
            async with self.beside() as session:
                return await work(session)
        with self.outage.watched():
            async with self._in_turn():
                running = asyncio.ensure_future(asyncio.to_thread(self._blocking_writer.writing, work))
                try:
                    return await asyncio.shield(running)
                except asyncio.CancelledError:
                    await asyncio.wait([running])  # its turn ends with it
                    raise

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """SQLite's writers of this process, one after the other: a lock of the file is not granted in turn."""
        if not self.is_sqlite:
            yield
            return
        async with asyncio.timeout(POOL_WAIT_SECONDS):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    def _committed(self, session: Session) -> None:
        for notify in session.info.get(ON_COMMIT, ()):
            notify()
        self.on_commit()

    def _lock(self) -> Select[Any]:
        if self.is_sqlite:
            return select(Meta)
        return select(Meta, func.pg_notify(CHANNEL, "")).with_for_update(of=Meta)

    async def close(self) -> None:
        """Closes every connection."""
        await self._reader.dispose()
        await self._writer.dispose()
        if self.is_sqlite:
            self._blocking_reader.close()
            self._blocking_writer.close()


def inserting(session: AsyncSession, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """An `INSERT` into the table that supports `on_conflict_…`."""
    return inserting_by(session.get_bind().dialect.name, table)


def inserting_by(dialect: str, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """The same for a dialect by its name, to be made once and executed often."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table)


async def retried(work: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Result:
    """Runs `work`, a whole transaction, and returns its result; retries it a few times on a conflict."""
    for failures in range(1, TRIES):
        try:
            return await work(*arguments)
        except Exception as error:
            if not is_conflict(error):
                raise
        await asyncio.sleep(BACKOFF.seconds(failures))
    return await work(*arguments)


async def connect(url: URL, *, patient: bool = False) -> "asyncpg.Connection[asyncpg.Record]":
    """Opens a connection to PostgreSQL; `OSError` if that fails.

    The parameters of the URL have the same meaning as in libpq (`sslmode`, `sslrootcert`, …).
    """
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=None if patient else COMMAND_SECONDS,
            server_settings=SESSION_SETTINGS | (UNBOUNDED if patient else {}),
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, OverflowError) as error:
        # SQLAlchemy would not wrap these errors, so they would not count as an outage.
        raise ConnectionError(reason_of(error)) from error


def make_private(path: str) -> None:
    """Creates the file of a SQLite database with mode 0600, unless it exists; SQLite's other files inherit the mode."""
    with suppress(OSError):  # SQLite reports the problem with a better message
        os.close(os.open(Path(path).resolve(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def keep_private(path: str) -> None:
    """Sets the files of a SQLite database to mode 0600; only for a file that is known to be a database."""
    file = Path(path).resolve()
    # By name: closing an open file would release the locks of this process on the database.
    for one in (file, *(file.with_name(f"{file.name}{ending}") for ending in SQLITE_ENDINGS)):
        with suppress(FileNotFoundError):
            if one.stat().st_mode & 0o777 != 0o600:
                one.chmod(0o600)


def _postgresql(url: URL, isolation: str, pool_size: int, patient: bool) -> AsyncEngine:
    return create_async_engine(
        url,
        async_creator=lambda: connect(url, patient=patient),
        isolation_level=isolation,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _sqlite(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=pool_size, **_sqlite_options())
    _prepare(engine.sync_engine, begin)
    return engine


def _blocking(url: URL, begin: str, pool_size: int) -> Blocking:
    blocking = Blocking(url, pool_size, **_sqlite_options())
    _prepare(blocking.engine, begin)
    return blocking


def _sqlite_options() -> dict[str, Any]:
    connecting = {"factory": _Connection}
    return {
        "max_overflow": 0,
        "pool_timeout": POOL_WAIT_SECONDS,
        "hide_parameters": True,
        "connect_args": connecting,
    }


def _prepare(engine: Engine, begin: str) -> None:
    """Have an engine of SQLite set up its connections, and begin transactions by this statement."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions; `begin` does
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {SQLITE_BUSY_MILLISECONDS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)


class _Connection(sqlite3.Connection):
    """Rolls back when it is closed.

    As long as something refers to an unfinished cursor, such as the traceback of a cancelled task, SQLite delays the
    end of a closed connection, and with it the end of its transaction: nobody else could write until then.
    """

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()


def _nothing() -> None:
    """The default of `on_commit`."""
