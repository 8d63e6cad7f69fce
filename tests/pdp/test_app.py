"""How a sidecar runs, and what ends it."""

import asyncio

import pytest

from pdp import app


async def forever() -> None:
    await asyncio.Event().wait()


async def failing() -> None:
    raise OSError("the disk is gone")


async def test_it_runs_until_stop_is_set() -> None:
    """The tasks continue; their owner ends them."""
    stop, task = asyncio.Event(), asyncio.create_task(forever())
    waiting = asyncio.create_task(app.until(stop, [task]))
    stop.set()
    await waiting
    assert not task.done()
    task.cancel()


async def test_a_task_that_fails_ends_the_program() -> None:
    """A sidecar that no longer follows its store does not keep running."""
    with pytest.raises(OSError, match="the disk is gone"):
        await app.until(asyncio.Event(), [asyncio.create_task(forever()), asyncio.create_task(failing())])


def test_the_clocks_are_read_together() -> None:
    """Both advance from one reading to the next."""
    first, second = app.now(), app.now()
    assert second.boot >= first.boot > 0
    assert second.wall > 1_700_000_000
