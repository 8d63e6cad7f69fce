"""What SQLite alone does: here, the lock of its one writer."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from registry_store.database.transactions import Database


async def test_a_connection_that_is_closed_frees_the_lock_though_a_cursor_of_it_is_kept(tmp_path: Path) -> None:
    """The traceback of a cancelled task keeps one, for as long as somebody keeps the traceback."""
    path = tmp_path / "registry.db"
    database = Database(make_url(f"sqlite+aiosqlite:///{path}"))
    async with database.engine.connect() as connection:
        await connection.begin()
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        kept = await driver.execute("VALUES (1), (2)")
        await connection.invalidate()
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    del kept
    await database.close()
