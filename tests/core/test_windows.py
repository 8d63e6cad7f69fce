"""The rolling windows against every action that was ever admitted."""

from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.usage import Limits, Usage
from pdp.core.windows import Window
from tests.history import BUCKET_SECONDS, BruteForce

WINDOWS = [(seconds, 60 * seconds) for seconds in BUCKET_SECONDS]

gaps = st.one_of(
    st.sampled_from([0.0, 0.001, 0.5, 0.999, 1.0, 1.001, 58.9, 59.0, 60.0, 61.0, 62.0, 100_000.0]),
    st.floats(0, 90_000, allow_nan=False),
)
starts = st.one_of(st.sampled_from([0.0, 0.999, 59.5, 60.0, 86_400.0]), st.floats(0, 1e7))


def moments(start: float, waits: list[float], scale: int) -> list[float]:
    """Times from `start` on, their gaps drawn for a window of a minute and stretched to one `scale` times as long."""
    times = [start]
    for wait in waits:
        times.append(times[-1] + wait * scale)
    return times


@pytest.mark.parametrize(("bucket", "width"), WINDOWS)
@given(start=starts, waits=st.lists(gaps, max_size=60), limit=st.integers(1, 5))
def test_no_interval_holds_more_than_the_limit(
    bucket: int, width: int, start: float, waits: list[float], limit: int
) -> None:
    """Wherever an interval as long as the window starts, at most the limit was admitted in it, both ends included."""
    window, admitted = Window(bucket), []
    for now in moments(start, waits, bucket):
        if window.wait(limit, now) == 0:
            window.add(int(now))
            admitted.append(now)
    assert all(late - early > width for early, late in zip(admitted, admitted[limit:], strict=False))


@pytest.mark.parametrize(("bucket", "width"), WINDOWS)
@given(start=starts, waits=st.lists(gaps, max_size=60), limit=st.integers(1, 5))
def test_what_is_refused_below_the_limit_is_at_most_one_sixtieth(
    bucket: int, width: int, start: float, waits: list[float], limit: int
) -> None:
    """A refusal means that the limit was reached within the window and one sixtieth of it."""
    window, admitted = Window(bucket), []
    for now in moments(start, waits, bucket):
        if window.wait(limit, now) == 0:
            window.add(int(now))
            admitted.append(now)
        else:
            assert sum(now - moment < width + width / 60 for moment in admitted) >= limit


@given(start=starts, waits=st.lists(gaps, max_size=60))
def test_counts_are_those_of_the_brute_force(start: float, waits: list[float]) -> None:
    """In all three windows at every moment, however long the pauses."""
    usage, history = Usage(), BruteForce()
    limits = Limits(1000, 1000, 1000)
    for now in moments(start, waits, 30):
        assert usage.remaining(limits, now) == history.remaining(limits, now)
        usage.count(now)
        history.count(now)
        assert usage.remaining(limits, now) == history.remaining(limits, now)


@given(
    start=starts, waits=st.lists(gaps, max_size=30), limits=st.builds(Limits, *[st.sampled_from([None, 1, 2, 3])] * 3)
)
def test_a_wait_is_exact(start: float, waits: list[float], limits: Limits) -> None:
    """At the time that it names one more action passes, and at the last moment before it none does."""
    usage, history = Usage(), BruteForce()
    for now in moments(start, waits, 7):
        wait = history.wait(limits, now)
        assert usage.wait(limits, now) == wait
        if wait == 0:
            usage.count(now)
            history.count(now)
        else:
            assert history.wait(limits, now + wait) == 0
            assert history.wait(limits, nextafter(now + wait, 0)) > 0


def test_a_limit_of_zero_is_never_passed() -> None:
    """Neither while nothing was counted nor long after."""
    usage = Usage()
    assert usage.wait(Limits(0, None, None), 0.0) == inf
    assert usage.wait(Limits(5, 0, 5), 1e9) == inf
    assert Window(1).wait(0, 5.0) == inf


def test_a_lower_limit_waits_for_all_that_is_too_much() -> None:
    """Lowered from 3 to 1, the limit is passed when the last of three actions no longer counts."""
    window = Window(1)
    for second in (100, 110, 120):
        window.add(second)
    assert window.wait(3, 120.0) == 41.0
    assert window.wait(2, 120.0) == 51.0
    assert window.wait(1, 120.0) == 61.0
    assert window.wait(4, 120.0) == 0.0


def test_the_longest_wait_counts() -> None:
    """Of three limits that refuse, the one that refuses longest says how long."""
    usage = Usage()
    usage.count(86_400.0)
    assert usage.wait(Limits(1, 1, None), 86_400.0) == 61 * 60
    assert usage.wait(Limits(1, None, 1), 86_400.0) == 61 * 1440
    assert usage.wait(Limits(1, 2, 2), 86_400.0) == 61
    assert usage.wait(Limits(2, 2, 2), 86_400.0) == 0


@pytest.mark.parametrize("bucket", BUCKET_SECONDS)
@given(starts)
def test_a_wait_added_to_now_is_never_a_float_too_short(bucket: int, now: float) -> None:
    """Whatever is rounded, the sum is the second on which the action's bucket has left the window."""
    window = Window(bucket)
    window.add(int(now))
    assert now + window.wait(1, now) == (int(now) // bucket + 61) * bucket


def test_usage_is_idle_after_a_day_and_an_hour() -> None:
    """Counted from the bucket of the day's window in which it was last looked at."""
    usage = Usage()
    usage.count(86_400.0 + 1439)
    assert not usage.is_idle(86_400.0 + 26 * 3600)
    assert usage.is_idle(86_400.0 + 26 * 3600 + 0.001)
    usage.remaining(Limits(None, None, 1), 200_000.0)
    assert not usage.is_idle(200_000.0 + 25 * 3600)


def test_spend_is_that_of_the_latest_day_seen() -> None:
    """A new day begins at nothing; a day before it, as after a clock set back, counts as that new day."""
    usage = Usage()
    assert usage.spent(0) == 0
    usage.spend(10, 5)
    usage.spend(10, 2)
    assert (usage.spent(10), usage.spent(11), usage.spent(9)) == (7, 0, 7)
    usage.spend(11, 1)
    assert (usage.spent(11), usage.spent(10)) == (1, 1)
    usage.spend(10, 3)
    assert (usage.spent(11), usage.spent(12)) == (4, 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), max_size=12), st.integers(0, 5))
def test_spend_is_that_of_the_brute_force(spending: list[tuple[int, int]], day: int) -> None:
    """In any order of days."""
    usage, history = Usage(), BruteForce()
    for spent_on, micros in spending:
        usage.spend(spent_on, micros)
        history.spend(spent_on, micros)
        assert usage.spent(day) == history.spent(day)
