"""How long the event loop keeps a timer waiting: what one call holds up, all others wait for."""

import asyncio
from collections.abc import Callable

PERIOD_SECONDS = 0.05
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Of the metric, in seconds."""


async def measure(observe: Callable[[float], None]) -> None:
    """Tell `observe` by how many seconds each turn came late, until cancelled."""
    clock = asyncio.get_running_loop().time
    due = clock() + PERIOD_SECONDS
    while True:
        await asyncio.sleep(due - clock())
        now = clock()
        observe(max(0.0, now - due))
        due = now + PERIOD_SECONDS
