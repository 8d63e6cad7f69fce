"""Decision ids: UUIDs of version 7 (RFC 9562), so that they sort by time."""

from collections.abc import Callable


class DecisionIds:
    """Ids of one process: 48 bits of milliseconds, a counter of 12 bits, and 62 random bits that the process keeps."""

    __slots__ = ("_counter", "_millisecond", "_prefix", "_tail")

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        tail = f"{0b10 << 62 | random_bits(62):016x}"
        self._tail = f"-{tail[:4]}-{tail[4:]}"
        self._begin(0)

    def next(self, wall: float) -> str:
        """A new id for the time `wall` (Unix seconds), greater than every id before, also if the clock goes back."""
        millisecond = int(wall * 1000)
        if millisecond > self._millisecond:
            self._begin(millisecond)
        elif self._counter == 0xFFF:
            self._begin(self._millisecond + 1)
        else:
            self._counter += 1
        return f"{self._prefix}{self._counter:03x}{self._tail}"

    def _begin(self, millisecond: int) -> None:
        digits = f"{millisecond:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"
        self._millisecond = millisecond
        self._counter = 0
