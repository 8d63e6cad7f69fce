"""Long work on the event loop that lets others have their turn."""

import asyncio
from collections.abc import Callable
from time import perf_counter

TURN_SECONDS = 0.001


class Turns:
    """Of one piece of work: after each millisecond of it, whoever waits comes first."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._until = clock() + TURN_SECONDS

    async def pause(self) -> None:
        """Let others have their turn, if this one has lasted its time."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + TURN_SECONDS
