"""Coroutines whose first step runs without a task."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from pdp.serving.http1.first_step import first_step

VALUE: ContextVar[str] = ContextVar("value", default="outside")


async def finished(work: Callable[[], Awaitable[object]]) -> object:
    """The result of a first step that has to wait, from where a protocol calls: outside of any task."""
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[asyncio.Task[object]] = loop.create_future()

    async def wrapped() -> object:
        return await work()

    def begin() -> None:
        task = first_step(wrapped(), loop)
        assert isinstance(task, asyncio.Task)
        assert asyncio.current_task() is None
        begun.set_result(task)

    loop.call_soon(begin)
    return await (await begun)


async def test_what_never_waits_has_its_result_at_once() -> None:
    """And needs no task; a fault in it is the caller's."""

    async def work(fails: bool) -> int:
        if fails:
            raise ZeroDivisionError
        return 7

    def begin() -> None:
        assert first_step(work(fails=False), loop) == 7
        with pytest.raises(ZeroDivisionError):
            first_step(work(fails=True), loop)
        done.set_result(len(asyncio.all_tasks()))

    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    loop.call_soon(begin)
    assert await done == 1  # the test itself


async def test_what_waits_goes_on_in_a_task() -> None:
    """Through any number of waits, for futures and for turns, up to its result or its fault."""

    async def work() -> str:
        await asyncio.sleep(0)
        await asyncio.to_thread(int)
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(fault())
        assert asyncio.current_task() is not None
        return "done"

    async def fault() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert await finished(work) == "done"
    with pytest.raises(ZeroDivisionError):
        await finished(fault)


async def test_a_time_out_that_begins_in_the_first_step_ends_the_task() -> None:
    """It cancels the task that it met there, and takes the cancellation back."""

    async def work() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await finished(work) == 0


async def test_a_time_out_that_is_not_reached_does_nothing() -> None:
    """Neither within the first step nor after it."""

    async def nothing() -> None:
        pass

    async def work() -> str:
        async with asyncio.timeout(3600):
            async with asyncio.timeout(3600):
                await nothing()
            await asyncio.sleep(0)
        return "done"

    assert await finished(work) == "done"


async def test_what_it_sets_in_its_context_stays_there() -> None:
    """Also over its waits; the caller's context is as it was."""

    async def work() -> str:
        VALUE.set("inside")
        await asyncio.sleep(0)
        return VALUE.get()

    assert await finished(work) == "inside"
    assert VALUE.get() == "outside"


async def test_a_task_that_is_cancelled_cleans_up() -> None:
    """At its first wait as at any other."""
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    def begin() -> None:
        task = first_step(work(), loop)
        assert isinstance(task, asyncio.Task)
        loop.call_later(0.001, task.cancel)
        begun.set_result(task)

    loop = asyncio.get_running_loop()
    begun: asyncio.Future[asyncio.Task[None]] = loop.create_future()
    loop.call_soon(begin)
    with pytest.raises(asyncio.CancelledError):
        await (await begun)
    assert cleaned.is_set()
