"""Lets other tasks run during long work on the event loop."""

import asyncio
from collections.abc import Callable
from time import perf_counter

TURN_SECONDS = 0.001


class Turns:
    """For one piece of work: after each millisecond of it, waiting tasks run first."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._until = clock() + TURN_SECONDS

    async def pause(self) -> None:
        """Let other tasks run if this one has used up its time."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + TURN_SECONDS
