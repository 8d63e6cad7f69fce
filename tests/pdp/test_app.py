"""How a sidecar runs, and what ends it."""

import asyncio
from pathlib import Path

import pytest

from pdp import app
from tests.waiting import BOUND_SECONDS
from tests.whole import FINANCIAL, settings, sidecar, store


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


async def test_callers_without_end_keep_a_sidecar_for_half_of_its_drain_at_most(tmp_path: Path) -> None:
    """It answers them and is not ready meanwhile, and leaves in the midst of their calls."""
    async with store(tmp_path) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        given = settings(tmp_path, central.grpc_address, drain_seconds=4 * app.QUIET_SECONDS)
        async with sidecar(given) as beside, asyncio.timeout(BOUND_SECONDS):
            await beside.sidecar.ready.wait()
            leaving = asyncio.ensure_future(beside.sidecar.leave())
            answered = 0
            while not leaving.done():
                assert (await beside.evaluate()).decision_id
                answered += 1
            assert answered > 1
            assert (await beside.http.call("GET", "/readyz")).body["status"] == "draining"
