"""Periodic jobs of a running store: at a fixed interval, or at their own pace and once more at the stop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from registry_store.database.attempts import Attempts

Act = Callable[[asyncio.Event], Awaitable[float]]
"""One run of a job: returns the seconds until the next run, and never raises. The event is set at the stop."""


async def by_the_clock(act: Callable[[datetime], Awaitable[None]], seconds: float, attempts: Attempts) -> None:
    """Calls `act` with the current time every `seconds` until cancelled; `attempts` logs failures."""
    while True:
        try:
            await act(datetime.now(UTC))
            attempts.worked()
        except Exception as error:
            attempts.failed(error)
        await asyncio.sleep(seconds)


@asynccontextmanager
async def repeated(act: Act) -> AsyncIterator[None]:
    """Repeats `act` until the block exits, then calls it once more."""
    end = asyncio.Event()
    task = asyncio.create_task(_repeat(act, end))
    try:
        yield
    finally:
        end.set()
        await task


async def _repeat(act: Act, end: asyncio.Event) -> None:
    while not end.is_set():
        seconds = await act(end)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await end.wait()
    await act(end)
