"""Transactions apart: in a thread as a whole on SQLite, and one after the other with all other writers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database import migrate, transactions
from registry_store.database.failures import is_unavailable
from registry_store.database.transactions import Database
from tests.waiting import BOUND_SECONDS

ADD = text("INSERT INTO kept VALUES (:x)")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(make_url(f"sqlite+aiosqlite:///{tmp_path}/registry.db"))
    await migrate.upgrade(opened)
    async with opened.writing() as session:
        await session.execute(text("CREATE TABLE kept (x)"))
    yield opened
    await opened.close()


async def kept(database: Database) -> list[int]:
    async with database.reading() as session:
        return list(await session.scalars(text("SELECT x FROM kept ORDER BY rowid")))


async def test_the_whole_transaction_runs_in_another_thread(database: Database) -> None:
    """Its result comes back, and what it wrote is committed."""

    async def work(session: AsyncSession) -> int:
        await session.execute(ADD, {"x": 1})
        return threading.get_ident()

    assert await database.apart(work) != threading.get_ident()
    assert await kept(database) == [1]


async def test_an_error_rolls_all_of_it_back(database: Database) -> None:
    """Also of what the driver's connection wrote itself."""

    async def work(session: AsyncSession) -> None:
        await session.execute(ADD, {"x": 1})
        await (await session.connection()).exec_driver_sql("INSERT INTO kept VALUES (?)", (2,))
        raise ValueError

    with pytest.raises(ValueError):
        await database.apart(work)
    assert await kept(database) == []


async def test_it_waits_for_nothing_but_its_session(database: Database) -> None:
    """There is no event loop; what it wrote before is rolled back."""

    async def work(session: AsyncSession) -> None:
        await session.execute(ADD, {"x": 1})
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="something else"):
        await database.apart(work)
    assert await kept(database) == []


async def test_writers_take_turns_in_the_order_in_which_they_came(database: Database) -> None:
    """Of all kinds: none asks SQLite for its lock while another has it, and none is overtaken."""

    async def write(number: int) -> None:
        async with database.writing() if number % 3 else database.beside() as session:
            await session.execute(ADD, {"x": number})

    async def write_apart(number: int) -> None:
        async def work(session: AsyncSession) -> None:
            await session.execute(ADD, {"x": number})

        await database.apart(work)

    await asyncio.gather(*(write_apart(number) if number % 2 else write(number) for number in range(30)))
    assert await kept(database) == list(range(30))


async def test_a_writer_that_waits_for_too_long_is_told_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an outage of the database; afterwards others write."""
    monkeypatch.setattr(transactions, "POOL_WAIT_SECONDS", 0.05)

    async def work(session: AsyncSession) -> None:
        await session.execute(ADD, {"x": 1})

    async with database.beside():
        with pytest.raises(TimeoutError) as error:
            await database.apart(work)
    assert is_unavailable(error.value)
    await database.apart(work)
    assert await kept(database) == [1]


async def test_a_caller_that_is_gone_leaves_a_whole_transaction(database: Database) -> None:
    """It ends before the next writer has its turn."""
    began, may_end = threading.Event(), threading.Event()

    async def work(session: AsyncSession) -> None:
        await session.execute(ADD, {"x": 1})
        began.set()
        may_end.wait(BOUND_SECONDS)
        await session.execute(ADD, {"x": 2})

    async def write() -> None:
        async with database.writing() as session:
            await session.execute(ADD, {"x": 3})

    caller = asyncio.create_task(database.apart(work))
    await asyncio.to_thread(began.wait, BOUND_SECONDS)
    caller.cancel()
    next_writer = asyncio.create_task(write())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await next_writer
    assert await kept(database) == [1, 2, 3]


async def test_reads_apart_do_not_wait_for_a_writer(database: Database) -> None:
    """They see what was committed, in another thread, and leave no transaction behind."""

    async def read(session: AsyncSession) -> tuple[int | None, int]:
        return await session.scalar(text("SELECT max(x) FROM kept")), threading.get_ident()

    async with database.writing() as session:
        await session.execute(ADD, {"x": 1})
        seen, thread = await database.read_apart(read)
        assert (seen, thread == threading.get_ident()) == (None, False)
    assert [(await database.read_apart(read))[0] for _ in range(20)] == [1] * 20
