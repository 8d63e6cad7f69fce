"""Waiting in a test: for a condition, with a bound, and never for a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

BOUND_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.002
MAX_PAUSE_SECONDS = 0.05

T = TypeVar("T")


async def eventually(holds: Callable[[], object]) -> None:
    """Returns once `holds()` is true; fails when it is not within the bound."""
    pauses = _pauses()
    async with asyncio.timeout(BOUND_SECONDS):
        while not holds():  # noqa: ASYNC110 - the condition is of another program or loop
            await asyncio.sleep(next(pauses))


async def eventually_gives(ask: Callable[[], Awaitable[T]], expected: Callable[[T], object]) -> T:
    """The first of `ask`'s answers that is as expected; fails when none is within the bound."""
    pauses = _pauses()
    async with asyncio.timeout(BOUND_SECONDS):
        while not expected(answer := await ask()):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(next(pauses))
    return answer


def _pauses() -> Iterator[float]:
    """Ever longer ones: a program that starts needs the processor more than the test that asks for it."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.5, MAX_PAUSE_SECONDS)
