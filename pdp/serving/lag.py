"""Measures the event loop's lag: how late a timer runs because other work blocks the loop."""

import asyncio
from collections.abc import Callable

PERIOD_SECONDS = 0.05
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Buckets of the metric, in seconds."""


async def measure(observe: Callable[[float], None]) -> None:
    """Pass the lag of each period, in seconds, to `observe` until cancelled."""
    clock = asyncio.get_running_loop().time
    due = clock() + PERIOD_SECONDS
    while True:
        await asyncio.sleep(due - clock())
        now = clock()
        observe(max(0.0, now - due))
        due = now + PERIOD_SECONDS
