"""Bringing a database to the schema that this program knows."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from registry_store.database import Database
from registry_store.errors import CannotStart


async def upgrade(database: Database) -> None:
    """Apply every migration that the database lacks, all or none."""
    async with database.engine.begin() as connection:
        await connection.run_sync(_upgrade)


async def check(database: Database) -> None:
    """Raise `CannotStart` unless the database is at the newest schema."""
    async with database.engine.connect() as connection:
        current = await connection.run_sync(_current)
    if current != _head():
        raise CannotStart(
            f"the database's schema is `{current or 'empty'}` and not `{_head()}`: run `registry-store migrate`"
        )


def _upgrade(connection: Connection) -> None:
    current = _current(connection)
    if current is not None and current not in _known():
        raise CannotStart(f"the database's schema `{current}` is newer than this program")
    command.upgrade(_config(connection), "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Any = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
