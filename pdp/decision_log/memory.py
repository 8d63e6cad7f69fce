"""How much of the decision log may wait in memory."""

import asyncio

from pdp.decision_log.writer import Size


class Memory:
    """The weight of the decisions that wait for the log's thread, of at most `max_bytes`, and what follows from it.

    While `full`, no decision may be made; only a log that does not drop the oldest records becomes full. While
    `crowded`, the disk is behind. `failing`: the disk cannot be written; `stalled`: it has taken too long.
    """

    def __init__(self, max_bytes: int, max_log_bytes: int, *, drops_oldest: bool) -> None:
        self.full = False
        self.crowded = False
        self.failing = False
        self.stalled = False
        self.weight = 0
        """Its owner adds each decision to it, and calls `update` from `watched_at` on."""
        self.watched_at = 0
        self.hurries_at = max_bytes >> 3
        """From this weight on it is written early."""
        self.handed_over = 0
        """The weight of what the thread has taken and not written yet."""
        self.has_room = asyncio.Event()
        self._max_bytes = max_bytes
        self._max_log_bytes = max_log_bytes
        self._drops_oldest = drops_oldest
        self._crowded_at = self._full_at = 0

    @property
    def excess(self) -> int:
        """The weight that must be dropped; nothing where nothing may be dropped."""
        return self.weight - self._max_bytes if self._drops_oldest else 0

    def hand_over(self) -> None:
        """The thread takes everything that waits."""
        self.handed_over, self.weight = self.weight, 0

    def measure(self, size: Size) -> None:
        """Take the bounds from the size of the log and of what the thread holds."""
        unwritten = self.handed_over + size.unwritten_bytes
        room = self._max_bytes - unwritten
        self._crowded_at = room // 2
        self._full_at = min(room, self._max_log_bytes - size.bytes - unwritten)
        self.watched_at = self._crowded_at if self._drops_oldest else min(self._crowded_at, self._full_at)

    def update(self) -> None:
        """Set `full` and `crowded`."""
        if not self._drops_oldest:
            self.full = self.weight >= self._full_at
        self.crowded = self.weight >= self._crowded_at and not (self.failing or self.stalled or self.full)
        if not self.crowded:
            self.has_room.set()
