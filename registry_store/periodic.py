"""What is done again and again while the store runs: by the clock, or at its own pace and once more as it stops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from registry_store.database.attempts import Attempts

Act = Callable[[asyncio.Event], Awaitable[float]]
"""Gives the seconds until the next time; the event says that the end has come, and it raises nothing."""


async def by_the_clock(act: Callable[[datetime], Awaitable[None]], seconds: float, attempts: Attempts) -> None:
    """Act on the time now, wait and act anew until cancelled; `attempts` logs what fails."""
    while True:
        try:
            await act(datetime.now(UTC))
            attempts.worked()
        except Exception as error:
            attempts.failed(error)
        await asyncio.sleep(seconds)


@asynccontextmanager
async def repeated(act: Act) -> AsyncIterator[None]:
    """Act, wait and act anew until the block is left, and a last time then."""
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
