"""Rolling windows: how many actions were admitted in the last minute, hour and day, in constant memory.

A window of W seconds is sixty buckets of W/60 and the one in progress. An action counts from the moment it is
admitted until its whole bucket is W old, so no interval of W ever holds more than the limit, and the window
refuses too much by at most one bucket: one sixtieth of the window.
"""

from array import array
from collections import Counter
from collections.abc import Mapping
from math import floor, inf

BUCKETS = 61
MAX_COUNT = 1 << 31
"""The most that one bucket counts; every limit is smaller."""


class Window:
    """One rolling window. `index` is always the number of the bucket in progress: boot seconds // bucket_seconds.

    It is negative for times before this boot, as after a restart of the machine.
    """

    __slots__ = ("bucket_seconds", "counts", "newest", "total")

    def __init__(self, bucket_seconds: int) -> None:
        self.bucket_seconds = bucket_seconds
        self.counts = array("I", bytes(4 * BUCKETS))
        self.newest = 0
        self.total = 0

    @classmethod
    def of(cls, bucket_seconds: int, newest: int, counts: Mapping[int, int]) -> "Window":
        """A window whose bucket in progress is `newest`, with the counts of its buckets by index."""
        window = cls(bucket_seconds)
        window.newest = newest
        for index, count in counts.items():
            window.counts[index % BUCKETS] = min(count, MAX_COUNT)
        window.total = sum(window.counts)
        return window

    def by_index(self) -> dict[int, int]:
        """The counts of its non-empty buckets by index."""
        newest = self.newest
        return {newest - (newest - place) % BUCKETS: count for place, count in enumerate(self.counts) if count}

    def copy(self) -> "Window":
        """An independent copy."""
        window = Window.__new__(Window)
        window.bucket_seconds, window.newest, window.total = self.bucket_seconds, self.newest, self.total
        window.counts = self.counts[:]
        return window

    def moved(self, last: float, boot: float) -> "Window":
        """A copy on a clock that shows `boot` when this one's shows `last`; no count expires earlier than before."""
        width = self.bucket_seconds
        counts: Counter[int] = Counter()
        for index, count in self.by_index().items():
            end = min((index + 1) * width, last)
            counts[floor(end - last + boot) // width] += count
        return Window.of(width, max(counts, default=floor(boot) // width), counts)

    def total_at(self, second: int) -> int:
        """Actions that still count at `second`, whole seconds of the boot clock."""
        index = second // self.bucket_seconds
        if index > self.newest:
            self._advance(index)
        return self.total

    def add(self, second: int, actions: int = 1) -> None:
        """Count actions at `second`."""
        self.total_at(second)
        self.counts[self.newest % BUCKETS] += actions
        self.total += actions

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
