"""Rolling windows: how many actions were admitted in the last minute, hour and day, in constant memory.

A window of W seconds is sixty buckets of W/60 and the one in progress. An action counts from the moment it is
admitted until its whole bucket is W old, so no interval of W ever holds more than the limit, and what is refused
below the limit is at most one bucket: one sixtieth of the window.
"""

from array import array
from math import inf

BUCKETS = 61


class Window:
    """One rolling window. `index` is always the number of the bucket in progress: boot seconds // bucket_seconds."""

    __slots__ = ("bucket_seconds", "counts", "newest", "total")

    def __init__(self, bucket_seconds: int) -> None:
        self.bucket_seconds = bucket_seconds
        self.counts = array("I", bytes(4 * BUCKETS))
        self.newest = 0
        self.total = 0

    def total_at(self, second: int) -> int:
        """Actions that still count at `second`, whole seconds of the boot clock."""
        index = second // self.bucket_seconds
        if index > self.newest:
            self._advance(index)
        return self.total

    def add(self, second: int) -> None:
        """Count one action at `second`."""
        self.total_at(second)
        self.counts[self.newest % BUCKETS] += 1
        self.total += 1

    def wait(self, limit: int, boot: float) -> float:
        """Seconds from `boot` until fewer than `limit` actions count: 0 if so now, infinite if never."""
        excess = self.total_at(int(boot)) - limit + 1
        if excess <= 0:
            return 0.0
        if limit <= 0:
            return inf
        bucket = self.newest - BUCKETS
        while excess > 0:
            bucket += 1
            excess -= self.counts[bucket % BUCKETS]
        # Exact: the sum of this and `boot` rounds to the whole second on which the bucket ends.
        return (bucket + BUCKETS) * self.bucket_seconds - boot

    def _advance(self, index: int) -> None:
        if index - self.newest >= BUCKETS:
            self.counts = array("I", bytes(4 * BUCKETS))
            self.total = 0
        else:
            for passed in range(self.newest + 1, index + 1):
                self.total -= self.counts[passed % BUCKETS]
                self.counts[passed % BUCKETS] = 0
        self.newest = index
