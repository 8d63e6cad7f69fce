"""The rolling windows against every action that was ever admitted."""

from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.usage import MAX_DAYS, Limits, Usage
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
def test_at_most_one_sixtieth_is_refused_below_the_limit(
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
    """In all three windows at every moment, with pauses of any length."""
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
    """At the returned time one more action is admitted, and just before it none is."""
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
    """Neither before the first action nor long after."""
    usage = Usage()
    assert usage.wait(Limits(0, None, None), 0.0) == inf
    assert usage.wait(Limits(5, 0, 5), 1e9) == inf
    assert Window(1).wait(0, 5.0) == inf


def test_a_lowered_limit_waits_until_the_excess_has_expired() -> None:
    """Lowered from 3 to 1, the limit is passed when the last of three actions no longer counts."""
    window = Window(1)
    for second in (100, 110, 120):
        window.add(second)
    assert window.wait(3, 120.0) == 41.0
    assert window.wait(2, 120.0) == 51.0
    assert window.wait(1, 120.0) == 61.0
    assert window.wait(4, 120.0) == 0.0


def test_the_longest_wait_counts() -> None:
    """If three limits refuse, the longest wait is returned."""
    usage = Usage()
    usage.count(86_400.0)
    assert usage.wait(Limits(1, 1, None), 86_400.0) == 61 * 60
    assert usage.wait(Limits(1, None, 1), 86_400.0) == 61 * 1440
    assert usage.wait(Limits(1, 2, 2), 86_400.0) == 61
    assert usage.wait(Limits(2, 2, 2), 86_400.0) == 0


@pytest.mark.parametrize("bucket", BUCKET_SECONDS)
@given(starts)
def test_a_wait_added_to_now_is_never_a_float_too_short(bucket: int, now: float) -> None:
    """After rounding, the sum is the second at which the action's bucket leaves the window."""
    window = Window(bucket)
    window.add(int(now))
    assert now + window.wait(1, now) == (int(now) // bucket + 61) * bucket


def test_usage_is_idle_after_a_day_and_an_hour() -> None:
    """Counted from the last used bucket of the day's window."""
    usage = Usage()
    usage.count(86_400.0 + 1439)
    assert not usage.is_idle(86_400.0 + 26 * 3600)
    assert usage.is_idle(86_400.0 + 26 * 3600 + 0.001)
    usage.remaining(Limits(None, None, 1), 200_000.0)
    assert not usage.is_idle(200_000.0 + 25 * 3600)


def test_spend_counts_for_the_day_and_the_next_one_after_the_clock_went_back() -> None:
    """A new day starts at zero, and a clock that goes back over midnight gives no second budget."""
    usage = Usage()
    assert usage.spent(0) == 0
    usage.spend(10, 5)
    usage.spend(10, 2)
    assert [usage.spent(day) for day in (8, 9, 10, 11)] == [0, 7, 7, 0]
    usage.spend(11, 1)
    assert [usage.spent(day) for day in (9, 10, 11)] == [7, 8, 1]
    usage.spend(10, 3)
    assert [usage.spent(day) for day in (9, 10, 11)] == [10, 11, 1]


def test_spend_on_a_day_far_ahead_does_not_count_today() -> None:
    """After a clock that was 400 days ahead for a moment, today's spend still counts and tomorrow starts at zero."""
    usage = Usage()
    usage.spend(10, 7)
    usage.spend(410, 5)
    assert (usage.spent(10), usage.spent(410)) == (7, 5)
    usage.spend(10, 1)
    assert (usage.spent(10), usage.spent(11)) == (8, 0)
    for day in range(11, 11 + MAX_DAYS):
        usage.spend(day, 1)
    assert usage.spent(410) == 0


@given(st.lists(st.tuples(st.integers(1, MAX_DAYS), st.integers(0, 9)), max_size=30), st.integers(0, MAX_DAYS))
def test_spend_is_that_of_the_brute_force(spending: list[tuple[int, int]], day: int) -> None:
    """With the kept days in any order."""
    usage, history = Usage(), BruteForce()
    for spent_on, micros in spending:
        usage.spend(spent_on, micros)
        history.spend(spent_on, micros)
        assert usage.spent(day) == history.spent(day)


@given(st.lists(st.integers(0, 100), max_size=60))
def test_the_most_recently_charged_days_are_kept(days: list[int]) -> None:
    """At most eight, so that counters stay bounded even if the clock is wrong."""
    usage = Usage()
    for day in days:
        usage.spend(day, 1)
    newest_first = list(dict.fromkeys(reversed(days)))
    assert set(usage.micros_by_day) == set(newest_first[:MAX_DAYS])


@given(start=starts, waits=st.lists(gaps, max_size=60), later=gaps)
def test_a_copy_has_the_counts_of_the_original(start: float, waits: list[float], later: float) -> None:
    """Later counts of the original do not reach it."""
    usage, limits = Usage(), Limits(1000, 1000, 1000)
    times = moments(start, waits, 30)
    for now in times:
        usage.count(now)
    usage.spend(1, 5)
    copy, after = usage.copy(), times[-1] + later * 30
    expected = usage.copy().remaining(limits, after)
    usage.count(after)
    usage.spend(1, 5)
    assert copy.remaining(limits, after) == expected
    assert copy.spent(1) == 5


@given(
    start=starts,
    waits=st.lists(gaps, max_size=30),
    rest=gaps,
    boot=st.one_of(st.just(0.0), st.floats(0, 1e6)),
    after=gaps,
)
def test_on_another_clock_no_count_expires_earlier_or_much_later(
    start: float, waits: list[float], rest: float, boot: float, after: float
) -> None:
    """What was admitted less than a window ago counts, and what was admitted two buckets before that does not."""
    usage = Usage()
    times = moments(start, waits, 30)
    for now in times:
        usage.count(now)
    last = times[-1] + rest
    moved = usage.moved(last, boot)
    ages = [last + after - now for now in times]
    counted = Limits(10**6, 10**6, 10**6)
    left = moved.remaining(counted, boot + after)
    for bucket, used in zip(BUCKET_SECONDS, (10**6 - one for one in left), strict=True):
        # a rounding of floats apart
        assert sum(age <= 60 * bucket - 0.001 for age in ages) <= used
        assert used <= sum(age <= 62 * bucket + 0.001 for age in ages)


@given(boot=starts, limits=st.builds(Limits, *[st.integers(1, 1_000_000_000)] * 3))
def test_unknown_usage_counts_as_used_up(boot: float, limits: Limits) -> None:
    """Every limit is full until its window has passed, and the spend of the day and those before it is above any."""
    usage = Usage.unknown(int(boot), 20)
    assert usage.remaining(limits, boot) == (0, 0, 0)
    wait = usage.wait(limits, boot)
    assert 86_400 <= wait <= 86_400 + 1440
    assert usage.wait(limits, boot + wait) == 0
    assert usage.wait(Limits(1, None, None), boot) <= 61
    assert [usage.spent(day) > 10**15 for day in (13, 19, 20, 21)] == [True, True, True, False]
