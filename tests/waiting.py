"""Waiting in a test: for a condition, with a bound, and never for a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

BOUND_SECONDS = 60.0

T = TypeVar("T")


async def eventually(holds: Callable[[], object]) -> None:
    """Returns once `holds()` is true; fails when it is not within the bound."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not holds():  # noqa: ASYNC110 - the condition is of another program or loop
            await asyncio.sleep(0.005)


async def eventually_gives(ask: Callable[[], Awaitable[T]], expected: Callable[[T], object]) -> T:
    """The first of `ask`'s answers that is as expected; fails when none is within the bound."""
    async with asyncio.timeout(BOUND_SECONDS):
        while not expected(answer := await ask()):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
    return answer
