"""Work that is repeated while the store runs."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import SQLAlchemyError

from registry_store.database.attempts import Attempts
from registry_store.database.outages import Outage
from registry_store.periodic import by_the_clock, repeated
from tests.waiting import eventually


async def test_it_is_done_at_once_then_after_each_wait_and_once_more_at_the_end() -> None:
    """Each time it is told whether the end has come."""
    ends: list[bool] = []

    async def act(end: asyncio.Event) -> float:
        ends.append(end.is_set())
        return 0.0

    async with repeated(act):
        await eventually(lambda: len(ends) > 2)
    assert ends[-1] is True
    assert not any(ends[:-1])


async def test_the_end_cuts_a_wait_short() -> None:
    """Nobody who stops the store waits for the next turn."""
    acted = 0

    async def act(_end: asyncio.Event) -> float:
        nonlocal acted
        acted += 1
        return 1e9

    async with asyncio.timeout(20), repeated(act):
        await eventually(lambda: acted)
    assert acted == 2


async def test_work_under_way_hears_of_the_end() -> None:
    """So that a long piece of work can stop early; the last turn comes all the same."""
    began, heard = asyncio.Event(), 0

    async def act(end: asyncio.Event) -> float:
        nonlocal heard
        began.set()
        await end.wait()
        heard += 1
        return 1e9

    async with asyncio.timeout(20), repeated(act):
        await began.wait()
    assert heard == 2


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (SQLAlchemyError("away"), "WARNING", "counting failed: away"),
        (TimeoutError("too slow"), "WARNING", "counting failed: too slow"),
        (ConnectionError("no\nmore"), "WARNING", "counting failed: no"),
        (ValueError("wrong"), "ERROR", "internal error while counting"),
    ],
)
async def test_what_is_done_by_the_clock_goes_on_after_failures(
    error: Exception, level: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told the time as it begins; a line says that it fails, however often, and one that it works again."""
    began = datetime.now(UTC)
    times: list[datetime] = []

    async def act(now: datetime) -> None:
        times.append(now)
        if len(times) < 9:
            raise error

    task = asyncio.create_task(by_the_clock(act, 0, Attempts("counting", Outage())))
    await eventually(lambda: len(times) > 10)
    task.cancel()
    told = [record for record in caplog.records if record.name == "registry_store.database.attempts"]
    assert [(record.levelname, record.getMessage()) for record in told] == [
        (level, said),
        ("WARNING", "counting works again"),
    ]
    assert began <= times[0] <= times[1] <= datetime.now(UTC)
