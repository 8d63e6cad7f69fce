"""Wall-clock times in an agent's time zone."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo


class LocalTime(NamedTuple):
    """`hour` 0-23, `minute` of the day, `weekday` Monday 1 to Sunday 7, `day` the ordinal of the date."""

    hour: int
    minute: int
    weekday: int
    day: int


def local_time(zone: str, wall: float) -> LocalTime:
    """The local time in `zone` at `wall` (seconds since the Unix epoch), to the minute."""
    return _at_minute(zone, wall // 60)


def next_midnight(zone: str, wall: float) -> float:
    """When the next local date begins, in seconds since the Unix epoch; correct across changes to and from DST."""
    today = datetime.fromtimestamp(wall // 1, ZoneInfo(zone)).date()  # a fraction would be rounded up to midnight
    tomorrow = today + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=ZoneInfo(zone))
    if midnight.timestamp() <= wall:  # the clocks went back over midnight, so it comes twice
        midnight = midnight.replace(fold=1)
    return midnight.timestamp()


# A date in a zone costs microseconds; all agents of a zone share the answer for a minute.
@lru_cache(maxsize=4096)
def _at_minute(zone: str, minute: float) -> LocalTime:
    local = datetime.fromtimestamp(minute * 60, UTC).astimezone(ZoneInfo(zone))
    return LocalTime(local.hour, local.hour * 60 + local.minute, local.isoweekday(), local.toordinal())
