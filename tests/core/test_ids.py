"""Decision ids: UUIDs of version 7 that sort by time."""

from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st

from pdp.core.ids import DecisionIds


def bits(value: int = 0x2AAA_AAAA_AAAA_AAAA) -> DecisionIds:
    return DecisionIds(lambda count: value % 2**count)


@given(st.lists(st.floats(0, 4e9), max_size=50))
def test_ids_are_unique_and_sorted_whatever_the_clock_does(walls: list[float]) -> None:
    """Each is greater than the one before, also when the clock goes back."""
    ids = bits()
    found = [ids.next(wall) for wall in walls]
    assert found == sorted(set(found))


def test_ids_stay_sorted_over_a_full_counter() -> None:
    """4,096 ids fill a millisecond, and the next one borrows from the millisecond after."""
    ids = bits()
    found = [ids.next(1000.0) for _ in range(5000)]
    assert found == sorted(set(found))
    assert {name[:13] for name in found[:4096]} == {found[0][:13]}
    assert int(found[4096].replace("-", "")[:12], 16) == 1_000_001
    assert found[4096][15:18] == "000"


@example(wall=1.0, random=2**64 - 1)
@given(wall=st.floats(0, 4e9), random=st.integers(0, 2**64))
def test_an_id_is_a_uuid_of_version_7(wall: float, random: int) -> None:
    """With the milliseconds in front, and the process's own 62 bits at the end."""
    identity = UUID(bits(random).next(wall))
    assert identity.version == 7
    assert identity.variant == "specified in RFC 4122"
    assert identity.int >> 80 == int(wall * 1000)
    assert identity.int % 2**62 == random % 2**62
    assert identity.int >> 64 & 0xFFF == (0 if wall >= 0.001 else 1)


def test_two_processes_share_no_id() -> None:
    """Their random bits tell them apart in the same millisecond."""
    assert bits(1).next(5.0) != bits(2).next(5.0)


def test_the_id_of_a_known_moment() -> None:
    """2026-11-20 12:00 UTC, the first and the second of its millisecond."""
    ids = bits(1)
    assert ids.next(1_795_176_000.0) == "01a1f8d3-ea00-7000-8000-000000000001"
    assert ids.next(1_795_176_000.0) == "01a1f8d3-ea00-7001-8000-000000000001"
