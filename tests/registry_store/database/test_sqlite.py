"""What SQLite alone does: here, the lock of its one writer."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import make_url, text

from registry_store.database import migrate, transactions
from registry_store.database.transactions import Database
from tests.waiting import BOUND_SECONDS


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


@pytest.mark.parametrize(("at", "fails"), [("commit", False), ("rollback", False), ("rollback", True)])
async def test_a_transaction_ends_whole_though_its_task_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str, *, fails: bool
) -> None:
    """A caller that is gone while the transaction is committed, or rolled back, leaves no traceback and no lock.

    After a commit the pool rolls back too, before it takes the connection.
    """
    worked, ending, may_end, committed = Event(), Event(), Event(), []

    class Slow(transactions._Connection):
        def commit(self) -> None:
            _wait_to_end("commit")
            super().commit()

        def rollback(self) -> None:
            _wait_to_end("rollback")
            super().rollback()

    def _wait_to_end(call: str) -> None:
        if worked.is_set() and call == at:
            ending.set()
            may_end.wait(BOUND_SECONDS)

    async def work() -> None:
        async with database.writing() as session:
            await session.execute(text("CREATE TABLE kept (x)"))
            worked.set()
            if fails:
                raise ValueError

    path = tmp_path / "registry.db"
    url = make_url(f"sqlite+aiosqlite:///{path}")
    new = Database(url)
    await migrate.upgrade(new)
    await new.close()
    monkeypatch.setattr(transactions, "_Connection", Slow)
    database = Database(url)
    database.on_commit = lambda: committed.append(1)
    task = asyncio.create_task(work())
    await asyncio.to_thread(ending.wait, BOUND_SECONDS)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        tables = other.execute("SELECT name FROM sqlite_master WHERE name = 'kept'").fetchall()
    assert (len(tables), len(committed)) == ((0, 0) if fails else (1, 1))
    await database.close()
