"""Measures the event loop's lag: how late a timer runs because other work blocks the loop."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram

PERIOD_SECONDS = 0.05
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Buckets of the metrics, in seconds."""
SCHEDULER = Path("/proc/thread-self/schedstat")
"""Linux: nanoseconds that the thread ran, and that it waited for a processor (Documentation/scheduler/sched-stats)."""


class LoopLag:
    """Two histograms of a program: how late the loop was, and how much of that was the loop's own work."""

    def __init__(self, program: str, registry: CollectorRegistry) -> None:
        self._late = Histogram(
            f"{program}_event_loop_lag_seconds",
            "Time that the event loop kept a timer waiting",
            buckets=BUCKETS,
            registry=registry,
        )
        self._held = Histogram(
            f"{program}_event_loop_held_seconds",
            "The same, less the time that the program waited for a processor meanwhile",
            buckets=BUCKETS,
            registry=registry,
        )

    async def measure(self) -> None:
        """Observe the lag of each period until cancelled."""
        clock = asyncio.get_running_loop().time
        with _waited() as waited:
            due, before = clock() + PERIOD_SECONDS, waited()
            while True:
                await asyncio.sleep(due - clock())
                now, after = clock(), waited()
                late = max(0.0, now - due)
                self._late.observe(late)
                self._held.observe(max(0.0, late - (after - before)))
                due, before = now + PERIOD_SECONDS, after


@contextmanager
def _waited() -> Iterator[Callable[[], float]]:
    """Tells how many seconds this thread has waited for a processor; always 0 where the system does not say."""
    try:
        with SCHEDULER.open("rb", buffering=0) as file:
            yield lambda: int(os.pread(file.fileno(), 100, 0).split()[1]) / 1e9
    except FileNotFoundError:
        yield lambda: 0.0
