"""Decision and approval ids: UUIDs of version 7 (RFC 9562), which sort by time and cannot be guessed."""

from collections.abc import Callable

MAX_STEP_BACK_MS = 10_000
"""If the clock goes back by no more than this, ids continue from the newest one; otherwise they follow the clock."""
IDS_PER_MS = 1 << 10
_BATCH = 256
_PAIRS = [f"{pair:02x}" for pair in range(256)]
_DIGITS = "0123456789abcdef"
_RANDOM_OF_VARIANT = int("3fff" * _BATCH, 16)
_VARIANT = int("8000" * _BATCH, 16)


class DecisionIds:
    """Ids of one process: 48 bits of milliseconds, 10 bits that count within one, and 64 random bits for each id.

    `random_bits` must give bits that nobody can predict. They are drawn for 256 ids at once, and written as digits at
    once, which is cheaper.
    """

    __slots__ = (
        "_counter",
        "_ends",
        "_groups",
        "_high",
        "_high_digits",
        "_left",
        "_millisecond",
        "_prefix",
        "_random_bits",
        "_variants",
    )

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._left = 0
        self._high = -1
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
        if not self._left:
            self._draw()
        left = self._left = self._left - 1
        counter = self._counter
        # 2 of the random bits follow the counter in its group, 14 the UUID's variant in the next one.
        digit = _DIGITS[(counter & 0b11) << 2 | self._groups[left] >> 6]
        return f"{self._prefix}{_PAIRS[counter >> 2]}{digit}-{self._variants[left]}-{self._ends[left]}"

    def _draw(self) -> None:
        """Draw the random bits of the next ids: first the 16 of the two groups of each, then the 48 of their ends."""
        drawn = self._random_bits(64 * _BATCH).to_bytes(8 * _BATCH, "big")
        groups, ends = drawn[: 2 * _BATCH], drawn[2 * _BATCH :]
        variants = int.from_bytes(groups, "big") & _RANDOM_OF_VARIANT | _VARIANT
        self._groups = groups[::2]
        self._variants = variants.to_bytes(2 * _BATCH, "big").hex("-", 2).split("-")
        self._ends = ends.hex("-", 6).split("-")
        self._left = _BATCH

    def _set_millisecond(self, millisecond: int) -> None:
        high = millisecond >> 16
        if high != self._high:  # about once a minute
            self._high, self._high_digits = high, f"{high:08x}"
        self._prefix = f"{self._high_digits}-{_PAIRS[millisecond >> 8 & 0xFF]}{_PAIRS[millisecond & 0xFF]}-7"
        self._millisecond = millisecond
        self._counter = 0
