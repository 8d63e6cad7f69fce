"""What one agent has used: its actions in the rolling windows, and its spend on each of the last local days."""

from collections.abc import Iterable
from typing import NamedTuple

from pdp.core.windows import Window

IDLE_SECONDS = 26 * 3600
"""A local day has at most 25 hours, and a bucket of the day's window 24 minutes."""
MAX_DAYS = 8
"""Days with spend that are kept, so that the day's own spend is still there after the clock was wrong for a while."""
UNKNOWN_ACTIONS = 1 << 31
UNKNOWN_MICROS = 1 << 60
"""Above every limit and budget: counts that are not known count as used."""


class Limits(NamedTuple):
    """Actions in any 60 s, 3,600 s and 86,400 s; None: no limit."""

    minute: int | None
    hour: int | None
    day: int | None


class Usage:
    """Counts and spend of one agent. It knows no limits, so that a change of them resets nothing."""

    __slots__ = ("hours", "micros_by_day", "minutes", "seconds")

    def __init__(self) -> None:
        self.seconds = Window(1)
        self.minutes = Window(60)
        self.hours = Window(1440)
        self.micros_by_day: dict[int, int] = {}

    @classmethod
    def of(cls, windows: Iterable[Window], micros_by_day: dict[int, int]) -> "Usage":
        """Usage of these windows, of seconds, minutes and the day's buckets."""
        usage = cls.__new__(cls)
        usage.seconds, usage.minutes, usage.hours = windows
        usage.micros_by_day = micros_by_day
        return usage

    @classmethod
    def unknown(cls, second: int, day: int) -> "Usage":
        """Usage that is not known up to `second` of the boot clock and up to the local day, and so counts as used."""
        windows = [Window.of(width, second // width, {second // width: UNKNOWN_ACTIONS}) for width in (1, 60, 1440)]
        return cls.of(windows, dict.fromkeys(range(day - MAX_DAYS + 1, day + 1), UNKNOWN_MICROS))

    @property
    def windows(self) -> tuple[Window, Window, Window]:
        """The windows of a minute, an hour and a day."""
        return self.seconds, self.minutes, self.hours

    def copy(self) -> "Usage":
        """The same, which goes on by itself."""
        return Usage.of([window.copy() for window in self.windows], self.micros_by_day.copy())

    def is_idle(self, boot: float) -> bool:
        """Whether nobody has looked at it for longer than any window or local day: it then equals a new one."""
        return boot - self.hours.newest * self.hours.bucket_seconds > IDLE_SECONDS

    def wait(self, limits: Limits, boot: float) -> float:
        """Seconds until one more action passes every limit: 0 if it does now, infinite if it never will."""
        second = int(boot)
        minute, hour, day = limits
        if (
            (minute is None or self.seconds.total_at(second) < minute)
            and (hour is None or self.minutes.total_at(second) < hour)
            and (day is None or self.hours.total_at(second) < day)
        ):
            return 0.0
        return max(
            0.0 if limit is None else window.wait(limit, boot)
            for window, limit in zip(self.windows, limits, strict=True)
        )

    def spent(self, day: int) -> int:
        """Micro-dollars that count on a local day: what was spent on it, and on the next one before the clock went
        back over midnight. A day further ahead was a clock that was wrong.
        """
        days = self.micros_by_day
        return days.get(day, 0) + days.get(day + 1, 0)

    def count(self, boot: float, actions: int = 1) -> None:
        """Count admitted actions."""
        second = int(boot)
        self.seconds.add(second, actions)
        self.minutes.add(second, actions)
        self.hours.add(second, actions)

    def spend(self, day: int, micros: int) -> None:
        """Add to the spend of a local day; of more than `MAX_DAYS` the one that was longest not spent on goes."""
        days = self.micros_by_day
        days[day] = days.pop(day, 0) + micros  # at the end of the dict, which keeps the order
        if len(days) > MAX_DAYS:
            del days[next(iter(days))]

    def moved(self, last: float, boot: float) -> "Usage":
        """The same on another boot clock, which shows `boot` at the moment that this one's was `last`.

        Of an action only its bucket is known, so it is placed at the bucket's end, and ends to count no earlier.
        """
        return Usage.of([window.moved(last, boot) for window in self.windows], self.micros_by_day.copy())

    def remaining(self, limits: Limits, boot: float) -> Limits:
        """How many more actions each limit admits now; None where there is no limit."""
        second = int(boot)
        return Limits(
            *(
                None if limit is None else max(0, limit - window.total_at(second))
                for window, limit in zip((self.seconds, self.minutes, self.hours), limits, strict=True)
            )
        )
