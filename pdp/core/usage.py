"""The usage of one agent: its actions in the rolling windows, its spend on the last local days, and its failures."""

from collections.abc import Iterable
from typing import NamedTuple

from pdp.core.windows import BUCKETS, Window

IDLE_SECONDS = 26 * 3600
"""A local day has at most 25 hours, and a bucket of the day's window 24 minutes."""
MAX_DAYS = 8
"""Days whose spend is kept; today's spend survives a clock that was wrong for a while."""
UNKNOWN_ACTIONS = 1 << 31
UNKNOWN_MICROS = 1 << 60
"""Above every limit and budget: an unknown count is treated as used up."""


MIN_OUTCOMES, MAX_OUTCOMES = 20, 100
"""The error rate is that of the last `MAX_OUTCOMES` outcomes, and suspends from `MIN_OUTCOMES` on."""
_OUTCOMES = (1 << MAX_OUTCOMES) - 1
_NEW = tuple.__new__
"""Makes a named tuple of a tuple in half the time of its class."""


class Limits(NamedTuple):
    """Actions in any 60 s, 3,600 s and 86,400 s; None: no limit."""

    minute: int | None
    hour: int | None
    day: int | None


class Usage:
    """Counts and spend of one agent. It holds no limits, so a change of limits resets nothing."""

    __slots__ = ("_second", "hours", "micros_by_day", "minutes", "seconds")

    def __init__(self) -> None:
        self.seconds = Window(1)
        self.minutes = Window(60)
        self.hours = Window(1440)
        self.micros_by_day: dict[int, int] = {}
        self._second = -1.0

    @classmethod
    def of(cls, windows: Iterable[Window], micros_by_day: dict[int, int]) -> "Usage":
        """Usage of these windows, of seconds, minutes and the day's buckets."""
        usage = cls.__new__(cls)
        usage.seconds, usage.minutes, usage.hours = windows
        usage.micros_by_day = micros_by_day
        usage._second = -1.0
        return usage

    @classmethod
    def unknown(cls, second: int, day: int) -> "Usage":
        """Usage that is unknown up to `second` of the boot clock and up to the local day: treated as used up."""
        windows = [Window.of(width, second // width, {second // width: UNKNOWN_ACTIONS}) for width in (1, 60, 1440)]
        return cls.of(windows, dict.fromkeys(range(day - MAX_DAYS + 1, day + 1), UNKNOWN_MICROS))

    @property
    def windows(self) -> tuple[Window, Window, Window]:
        """The windows of a minute, an hour and a day."""
        return self.seconds, self.minutes, self.hours

    def copy(self) -> "Usage":
        """An independent copy."""
        return Usage.of([window.copy() for window in self.windows], self.micros_by_day.copy())

    def is_idle(self, boot: float) -> bool:
        """Whether it is unused for longer than any window or local day; it then equals a new one."""
        return boot - self.hours.newest * self.hours.bucket_seconds > IDLE_SECONDS

    def wait(self, limits: Limits, boot: float) -> float:
        """Seconds until one more action passes every limit: 0 if it does now, infinite if it never will."""
        if boot // 1 != self._second:
            self._move_to(boot)
        minute, hour, day = limits
        if (
            (minute is None or self.seconds.total < minute)
            and (hour is None or self.minutes.total < hour)
            and (day is None or self.hours.total < day)
        ):
            return 0.0
        return max(
            0.0 if limit is None else window.wait(limit, boot)
            for window, limit in zip(self.windows, limits, strict=True)
        )

    def spent(self, day: int) -> int:
        """Micro-dollars that count on a local day: the spend of that day, and of the next one, since the clock may have
        gone back over midnight. Spend further ahead came from a wrong clock.
        """
        days = self.micros_by_day
        return days.get(day, 0) + days.get(day + 1, 0)

    def count(self, boot: float, actions: int = 1) -> None:
        """Count admitted actions."""
        if boot // 1 != self._second:
            self._move_to(boot)
        for window in (self.seconds, self.minutes, self.hours):
            window.counts[window.newest % BUCKETS] += actions
            window.total += actions

    def spend(self, day: int, micros: int) -> None:
        """Add to the spend of a local day; beyond `MAX_DAYS` days the least recently charged one is dropped."""
        days = self.micros_by_day
        days[day] = days.pop(day, 0) + micros  # reinserted at the end: the dict keeps the order of charges
        if len(days) > MAX_DAYS:
            del days[next(iter(days))]

    def settle(self, day: int, difference: int) -> None:
        """Add what an action of a local day cost beyond its estimate; negative: less than its estimate."""
        if difference > 0:
            self.spend(day, difference)
        elif day in self.micros_by_day:
            self.micros_by_day[day] = max(0, self.micros_by_day[day] + difference)

    def moved(self, last: float, boot: float) -> "Usage":
        """A copy on another boot clock, which shows `boot` when this one's shows `last`.

        Only the bucket of an action is known, so it is placed at the bucket's end and never expires too early.
        """
        return Usage.of([window.moved(last, boot) for window in self.windows], self.micros_by_day.copy())

    def remaining(self, limits: Limits, boot: float) -> Limits:
        """How many more actions each limit admits now; None where there is no limit."""
        if boot // 1 != self._second:
            self._move_to(boot)
        minute, hour, day = limits
        if minute is not None and (minute := minute - self.seconds.total) < 0:
            minute = 0
        if hour is not None and (hour := hour - self.minutes.total) < 0:
            hour = 0
        if day is not None and (day := day - self.hours.total) < 0:
            day = 0
        return _NEW(Limits, (minute, hour, day))

    def _move_to(self, boot: float) -> None:
        """Bring the windows to the second of `boot`: within it they stay as they are."""
        self._second = boot // 1
        for window in self.windows:
            window.total_at(int(boot))


class Failures(NamedTuple):
    """The last outcomes of an agent since it was activated for the time number `activations`.

    The newest outcome is the lowest bit of `bits`, and a failure is 1.
    """

    activations: int = 0
    reported: int = 0
    bits: int = 0

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self.bits.bit_count()

    def after(self, activations: int, *, failed: bool) -> "Failures":
        """The outcomes with one more; those from before the agent was activated again are dropped."""
        reported, bits = (self.reported, self.bits) if activations == self.activations else (0, 0)
        return Failures(activations, min(reported + 1, MAX_OUTCOMES), (bits << 1 | failed) & _OUTCOMES)


def is_too_high(failed: int, reported: int, limit: float) -> bool:
    """Whether this share of failures suspends: it reaches the limit, and the sample is large enough."""
    return reported >= MIN_OUTCOMES and failed > 0 and failed / reported >= limit
