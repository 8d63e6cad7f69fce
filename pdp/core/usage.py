"""What one agent has used: its actions in the rolling windows, and its spend on the local day."""

from typing import NamedTuple

from pdp.core.windows import Window

IDLE_SECONDS = 26 * 3600
"""A local day has at most 25 hours, and a bucket of the day's window 24 minutes."""


class Limits(NamedTuple):
    """Actions in any 60 s, 3,600 s and 86,400 s; None: no limit."""

    minute: int | None
    hour: int | None
    day: int | None


class Usage:
    """Counts and spend of one agent. It knows no limits, so that a change of them resets nothing."""

    __slots__ = ("hours", "minutes", "seconds", "spend_day", "spent_micros")

    def __init__(self) -> None:
        self.seconds = Window(1)
        self.minutes = Window(60)
        self.hours = Window(1440)
        self.spend_day = 0
        self.spent_micros = 0

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
            for window, limit in zip((self.seconds, self.minutes, self.hours), limits, strict=True)
        )

    def spent(self, day: int) -> int:
        """Micro-dollars spent on a local day. A day before the last one seen counts as that one: clocks go back."""
        return self.spent_micros if day <= self.spend_day else 0

    def count(self, boot: float) -> None:
        """Count one admitted action."""
        second = int(boot)
        self.seconds.add(second)
        self.minutes.add(second)
        self.hours.add(second)

    def spend(self, day: int, micros: int) -> None:
        """Add to the spend of a local day."""
        self.spent_micros = self.spent(day) + micros
        self.spend_day = max(self.spend_day, day)

    def remaining(self, limits: Limits, boot: float) -> Limits:
        """How many more actions each limit admits now; None where there is no limit."""
        second = int(boot)
        return Limits(
            *(
                None if limit is None else max(0, limit - window.total_at(second))
                for window, limit in zip((self.seconds, self.minutes, self.hours), limits, strict=True)
            )
        )
