"""What is done again and again while the store runs: by the clock, or at its own pace and once more as it stops."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from registry_store.database.transactions import FAILURES, reason_of

logger = logging.getLogger(__name__)

Act = Callable[[asyncio.Event], Awaitable[float]]
"""Gives the seconds until the next time; the event says that the end has come, and it raises nothing."""


class Attempts:
    """Logs of work that is tried again and again: one line as it begins to fail, and one when it works again.

    However long the database is away and however often it is tried, the log does not grow. A fault of this program is
    logged with its traceback, once until the work is done again.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._told: set[bool] = set()

    def failed(self, error: Exception) -> None:
        """Note that it was tried, and failed by this error, which is being handled."""
        is_fault = not isinstance(error, FAILURES)
        if is_fault in self._told:
            return
        self._told.add(is_fault)
        if is_fault:
            logger.exception("a fault while %s", self._doing)
        else:
            logger.warning("%s failed: %s", self._doing, reason_of(error))

    def worked(self) -> None:
        """Note that it was done."""
        if self._told:
            self._told.clear()
            logger.warning("%s works again", self._doing)


async def by_the_clock(act: Callable[[datetime], Awaitable[None]], seconds: float, doing: str) -> None:
    """Act on the time now, wait and act anew until cancelled; what fails is logged as a failure of `doing` that."""
    attempts = Attempts(doing)
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
