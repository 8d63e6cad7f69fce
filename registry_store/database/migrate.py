"""Migration of a database to the schema of this version.

Alembic is imported only where there is something to migrate: most starts find the newest schema.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, func, inspect, select, text

from pdp.serving.backoff import Backoff
from registry_store.database.failures import FAILURES, reason_of
from registry_store.database.transactions import Database, keep_private, make_private
from registry_store.errors import StartError

if TYPE_CHECKING:
    from alembic.config import Config

ADVISORY_LOCK = 0x7265676973747279  # "registry" in ASCII
LOCKED_SECONDS = 10.0
MIGRATIONS = Path(__file__).parent / "migrations"
REVISIONS = sorted(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("r[0-9]*.py"))
"""The revisions of the schema, oldest first: `r0003_lists_of_agents.py` is `0003`."""
BACKOFF = Backoff(first=0.02, maximum=0.2)


@asynccontextmanager
async def opened(url: URL) -> AsyncIterator[Database]:
    """Opens the database, checks its schema (a SQLite database is migrated), and closes it on exit."""
    with _report_failures(url):
        database = _new_database(url)
    try:
        with _report_failures(url):
            if database.is_sqlite:
                await upgrade(database)
            await check(database)
        yield database
    finally:
        await database.close()


async def migrated(url: URL) -> None:
    """Migrates the database to the newest schema."""
    with _report_failures(url):
        database = _new_database(url, patient=True)
    try:
        with _report_failures(url):
            await upgrade(database)
    finally:
        await database.close()


def _new_database(url: URL, *, patient: bool = False) -> Database:
    if url.get_backend_name() == "sqlite":
        path = str(url.database)
        make_private(path)
        _probe(path)
        keep_private(path)
    return Database(url, patient=patient)


@contextmanager
def _report_failures(url: URL) -> Iterator[None]:
    try:
        yield
    except (*FAILURES, sqlite3.Error, ValueError) as error:
        # Without the query parameters, because they may hold a password too.
        shown = url.set(query={}).render_as_string(hide_password=True)
        raise StartError(f"`--database`: `{shown}` cannot be used: {reason_of(error)}") from error


def _probe(path: str) -> None:
    # If aiosqlite cannot open a connection, its thread stays and prints errors to stderr.
    with closing(sqlite3.connect(path)) as connection:
        # If several programs switch a new file to WAL at once, SQLite rejects all but one immediately.
        deadline = time.monotonic() + LOCKED_SECONDS
        for failures in count(1):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(BACKOFF.seconds(failures))


async def upgrade(database: Database) -> None:
    """Applies all pending migrations in one transaction."""
    async with database.engine.begin() as connection:
        await connection.run_sync(_upgrade)


async def check(database: Database) -> None:
    """Raises `StartError` unless the database has the newest schema."""
    async with database.engine.connect() as connection:
        current = await connection.run_sync(_current)
    if current != REVISIONS[-1]:
        raise StartError(
            f"the database's schema is `{current or 'empty'}` and not `{REVISIONS[-1]}`: run `registry-store migrate`"
        )


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # If several programs migrate at once, the others wait here and then have nothing to do.
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
    current = _current(connection)
    if current == REVISIONS[-1]:
        return
    if current is not None and current not in REVISIONS:
        raise StartError(f"the database's schema `{current}` is newer than this program")
    from alembic import command

    command.upgrade(_config(connection), "head")


def _config(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    current: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return current
