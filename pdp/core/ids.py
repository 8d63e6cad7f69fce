"""Decision and approval ids: UUIDs of version 7 (RFC 9562), which sort by time and cannot be guessed."""

from array import array
from collections.abc import Callable

MAX_STEP_BACK_MS = 10_000
"""If the clock goes back by no more than this, ids continue from the newest one; otherwise they follow the clock."""
IDS_PER_MS = 1 << 10
_BATCH = 256


class DecisionIds:
    """Ids of one process: 48 bits of milliseconds, 10 bits that count within one, and 64 random bits for each id.

    `random_bits` must give bits that nobody can predict. They are drawn for 256 ids at once, which is cheaper.
    """

    __slots__ = ("_counter", "_millisecond", "_prefix", "_random", "_random_bits")

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._random = array("Q")
        self._set_millisecond(0)

    def next(self, wall: float) -> str:
        """A new id for the time `wall` (Unix seconds), greater than the last unless the clock went back by seconds."""
        millisecond = int(wall * 1000)
        if not 0 <= self._millisecond - millisecond <= MAX_STEP_BACK_MS:
            self._set_millisecond(millisecond)
        elif self._counter == IDS_PER_MS - 1:
            self._set_millisecond(self._millisecond + 1)
        else:
            self._counter += 1
        if not self._random:
            self._random.frombytes(self._random_bits(64 * _BATCH).to_bytes(8 * _BATCH, "big"))
        random = self._random.pop()
        # 2 of the random bits follow the counter in its group, 62 the UUID's variant.
        digits = f"{0b10 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF:016x}"
        return f"{self._prefix}{self._counter << 2 | random >> 62:03x}-{digits[:4]}-{digits[4:]}"

    def _set_millisecond(self, millisecond: int) -> None:
        digits = f"{millisecond:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"
        self._millisecond = millisecond
        self._counter = 0
