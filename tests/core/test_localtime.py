"""Local time and the next midnight against the standard library, around changes of the clocks and far from them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdp.core.localtime import LocalTime, local_time, next_midnight

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Africa/Cairo",  # forward at midnight
    "America/Havana",  # back at one o'clock to midnight
    "America/Nuuk",  # across midnight in both directions
    "America/St_Johns",  # until 2011 one minute after midnight
    "America/Asuncion",
    "America/Santiago",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # left out 2011-12-30
    "Pacific/Kiritimati",
    "Pacific/Auckland",
]
CHANGES = ["2010-11-07T02:31:00", "2011-12-30T10:00:00", "2026-03-08T07:00:00", "2026-11-01T06:00:00"]
CHANGES += ["2026-03-29T01:00:00", "2026-10-25T01:00:00", "2026-04-23T22:00:00", "2026-10-29T21:00:00"]
CHANGES += ["2026-11-01T05:00:00", "2026-03-08T05:00:00", "2026-04-05T03:00:00", "2026-09-06T04:00:00"]

walls = st.one_of(
    st.builds(
        lambda change, beside: datetime.fromisoformat(change).replace(tzinfo=UTC).timestamp() + beside,
        st.sampled_from(CHANGES),
        st.one_of(st.sampled_from([-1e-6, 0.0, 1.0, -60.0, -86_400.0]), st.floats(-90_000, 90_000)),
    ),
    st.floats(946_684_800, 2_145_916_800),
)


def local(zone: str, wall: float) -> datetime:
    return datetime.fromtimestamp(int(wall), ZoneInfo(zone))


@given(st.sampled_from(ZONES), walls)
def test_local_time_is_that_of_the_zone(zone: str, wall: float) -> None:
    """Hour, minute of the day, weekday and date, down to the last float before a minute."""
    there = local(zone, wall)
    minute = there.hour * 60 + there.minute
    assert local_time(zone, wall) == LocalTime(there.hour, minute, there.isoweekday(), there.toordinal())


@example("America/St_Johns", 1_289_097_090.0)  # the second 23:31 of a date whose end was there once already
@example("UTC", 1_795_132_799.9999998)  # the last float before midnight
@given(st.sampled_from(ZONES), walls)
def test_the_next_midnight_is_the_first_instant_of_a_later_date(zone: str, wall: float) -> None:
    """It is at most 49 hours ahead and on a later date; a second before it the date is not later."""
    midnight = next_midnight(zone, wall)
    assert wall < midnight <= wall + 49 * 3600
    today = local(zone, wall).date()
    assert local(zone, midnight).date() > today
    assert midnight - 1 < wall or local(zone, midnight - 1).date() <= today


@pytest.mark.parametrize(
    ("zone", "at", "hours"),
    [
        ("UTC", "2026-11-20T00:00:00+00:00", 24),
        ("America/New_York", "2026-03-08T05:00:00+00:00", 23),
        ("America/New_York", "2026-11-01T04:00:00+00:00", 25),
        ("Africa/Cairo", "2026-04-23T22:00:00+00:00", 23),
        ("Pacific/Apia", "2011-12-29T10:00:00+00:00", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_makes_it(zone: str, at: str, hours: int) -> None:
    """From the first instant of a date to the next one."""
    start = datetime.fromisoformat(at).timestamp()
    assert next_midnight(zone, start) - start == hours * 3600
