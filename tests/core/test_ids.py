"""Decision and approval ids: UUIDs of version 7 that sort by time, each with 64 separate random bits."""

import secrets
from itertools import pairwise
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from pdp.core.ids import MAX_STEP_BACK_MS, DecisionIds

NOON = 1_795_176_000.0


def ids_of(value: int = 0x2AAA_AAAA_AAAA_AAAA) -> DecisionIds:
    """Ids whose random bits are always `value`."""
    groups, end = value.to_bytes(8)[:2], value.to_bytes(8)[2:]
    return DecisionIds(lambda count: int.from_bytes(groups * (count // 64) + end * (count // 64)))


def millisecond(name: str) -> int:
    return int(name.replace("-", "")[:12], 16)


def random_bits(name: str) -> int:
    """The 64 random bits of an id: two after the counter, and 62 after the variant."""
    number = UUID(name).int
    return (number >> 64 & 0b11) << 62 | number & (1 << 62) - 1


# A float so far from zero may be a millisecond off.
@given(st.lists(st.floats((1 - MAX_STEP_BACK_MS) / 1000, 4e9), max_size=50))
def test_ids_are_sorted_while_the_clock_goes_back_by_little(steps: list[float]) -> None:
    """Each is greater than the one before while the clock is behind the newest by ten seconds at most."""
    ids, newest, found = ids_of(), 10.0, []
    for step in steps:
        found.append(ids.next(max(0.0, newest + step)))
        newest = max(newest, millisecond(found[-1]) / 1000)
    assert found == sorted(set(found))


@given(st.lists(st.floats(0, 4e9), max_size=50))
def test_ids_are_unique_and_near_the_clock_whatever_it_does(walls: list[float]) -> None:
    """No id is more than ten seconds ahead of the clock, and no id repeats."""
    ids = DecisionIds(secrets.randbits)
    found = [(wall, ids.next(wall)) for wall in walls]
    assert len({name for _, name in found}) == len(walls)
    for wall, name in found:
        assert 0 <= millisecond(name) - int(wall * 1000) <= MAX_STEP_BACK_MS


def test_ids_follow_the_clock_again_after_a_jump() -> None:
    """After a clock that was 400 days ahead for a moment, the next id has the current time."""
    ids = DecisionIds(secrets.randbits)
    before, ahead, after = ids.next(NOON), ids.next(NOON + 400 * 86_400), ids.next(NOON + 1)
    assert before < after < ahead
    assert millisecond(after) == (NOON + 1) * 1000
    assert ids.next(NOON + 2) > after


def test_ids_of_a_repeated_moment_differ() -> None:
    """The counter restarts, and the random bits differ."""
    ids = DecisionIds(secrets.randbits)
    first = [ids.next(NOON) for _ in range(1000)]
    ids.next(NOON + 86_400)
    again = [ids.next(NOON) for _ in range(1000)]
    assert len({*first, *again}) == 2000


def test_no_id_predicts_another() -> None:
    """A thousand ids have distinct random bits, and each of the 64 bits varies."""
    ids = DecisionIds(secrets.randbits)
    found = [random_bits(ids.next(NOON)) for _ in range(1000)]
    assert len(set(found)) == 1000
    for bit in range(64):
        assert 300 < sum(number >> bit & 1 for number in found) < 700


def test_random_bits_are_drawn_for_many_at_once() -> None:
    """A thousand ids draw them four times."""
    drawn = []

    def draw(count: int) -> int:
        drawn.append(count)
        return secrets.randbits(count)

    ids = DecisionIds(draw)
    for _ in range(1000):
        ids.next(NOON)
    assert drawn == [64 * 256] * 4


def test_ids_stay_sorted_over_a_full_counter() -> None:
    """1,024 ids fill a millisecond, and the next one borrows from the millisecond after."""
    ids = ids_of()
    found = [ids.next(1000.0) for _ in range(3000)]
    assert all(one < other for one, other in pairwise(found))
    assert {millisecond(name) for name in found[:1024]} == {1_000_000}
    assert millisecond(found[1024]) == 1_000_001


@example(wall=1.0, random=2**64 - 1)
@given(wall=st.floats(0, 4e9), random=st.integers(0, 2**64 - 1))
def test_an_id_is_a_uuid_of_version_7(wall: float, random: int) -> None:
    """With the milliseconds in front, then the counter, then the 64 random bits."""
    name = ids_of(random).next(wall)
    identity = UUID(name)
    assert identity.version == 7
    assert identity.variant == "specified in RFC 4122"
    assert identity.int >> 80 == int(wall * 1000)
    assert identity.int >> 66 & 0x3FF == (0 if wall >= 0.001 else 1)
    assert random_bits(name) == random


def test_the_id_of_a_known_moment() -> None:
    """2026-11-20 12:00 UTC, the first and the second of its millisecond."""
    ids = ids_of(1 << 63 | 1)
    assert ids.next(NOON) == "01a1f8d3-ea00-7002-8000-000000000001"
    assert ids.next(NOON) == "01a1f8d3-ea00-7006-8000-000000000001"
