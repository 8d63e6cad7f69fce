"""Problems have bounded size and number, and reading stops at the limit."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pdp.core import records
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, quote, read_fields
from pdp.core.kinds import Flag, Json, ListOf, MapOf, Text

BODY = {"agent_id": "abc", "display_name": "An agent"}
POLICY = {"policy_name": "p", "policy_action": "block"}
LONG = "ж" * 1_000_000
MAX_ANSWER_BYTES = 128 * 1024


def faults(read: Callable[[Any], object], document: object) -> InvalidRecordError:
    with pytest.raises(InvalidRecordError) as caught:
        read(document)
    return caught.value


@pytest.mark.parametrize(
    ("read", "document"),
    [
        (records.read_configuration, {f"unknown_{number}": 1 for number in range(290_000)}),
        (records.read_configuration, BODY | {LONG: 1, "tags": [LONG], "display_name": LONG, LONG + "x": {LONG: LONG}}),
        (records.read_configuration, BODY | {"mcp_capabilities": {LONG: [1] * 1024}}),
        (records.read_configuration, BODY | {"allowed_resources": [{"x": LONG}] * 4096}),
        (records.read_configuration, BODY | {"action_risk_scores": {str(number): 101 for number in range(4096)}}),
        (records.read_configuration, BODY | {"time_window_timezone": "a/" * 500_000}),
        (records.read_policy_body, POLICY | {"conditions": {f"{number:x}": 1 for number in range(7_000)}}),
        (records.read_policy_body, POLICY | {"conditions": {"r" * 60_000: 1}}),
        (records.read_agent, BODY | {"status": "active", "version": "1.0.0", "policies": [{"x": 1}] * 10_000}),
        (
            records.read_server,
            {
                "server_name": "db",
                "auto_approve_tools": [str(number) for number in range(4096)],
                "blocked_tools": [str(number) for number in range(4096)],
            },
        ),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_problems_are_bounded_in_number_and_size(read: Callable[[Any], object], document: object) -> None:
    """As a list, as JSON, and as one text."""
    error = faults(read, document)
    assert 0 < len(error.problems) <= 101
    assert len(json.dumps(error.problems, ensure_ascii=False).encode()) < MAX_ANSWER_BYTES
    assert len(str(error)) < 2_000


def test_problems_beyond_the_limit_are_counted() -> None:
    """The count is a minimum, because reading stopped."""
    error = faults(records.read_configuration, BODY | {f"unknown_{number}": 1 for number in range(290_000)})
    assert error.problems[0] == Problem("unknown_0", "unknown field")
    assert error.problems[-1] == Problem("", "and at least 289,900 more")
    assert error.count == 290_000
    assert str(error).startswith("unknown_0: unknown field; unknown_1: unknown field; ")


class Watched(dict[str, Any]):
    """Counts how many of its names are read."""

    seen = 0

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self.seen += 1
            yield name


class Counting:
    """A kind that accepts no value and counts its calls."""

    def __init__(self) -> None:
        self.asked = 0

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        self.asked += 1
        problems.append(Problem(path, "is wrong"))

    def schema(self) -> dict[str, Any]:
        return {}


def test_reading_stops_when_there_are_too_many() -> None:
    """So it takes no longer than reading a hundred."""
    document = Watched({str(number): 1 for number in range(100_000)})
    read_fields(document, {"on": Field(Flag(), True)}, "", Problems())
    assert document.seen < 200
    items, entries = Counting(), Counting()
    ListOf(items, 100_000).read([1] * 100_000, "at", Problems())
    MapOf(Text(9), entries, 100_000).read({str(number): 1 for number in range(100_000)}, "at", Problems())
    assert max(items.asked, entries.asked) < 200


def test_quoting_a_large_value_does_not_encode_all_of_it() -> None:
    """Only the part that the message shows."""

    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(100)
            raise AssertionError("read on and on")

    assert quote(Endless([1])).startswith("`[0, 1, 2, 3, ")


class Shy(dict[str, Any]):
    """An object whose members may be counted but not read."""

    def items(self) -> Any:
        raise AssertionError("looked at")

    values = items


def test_a_value_that_is_far_too_large_is_not_read() -> None:
    """A value with more members than bytes are allowed is too large, whatever they are."""
    problems = Problems()
    Json(16_384).read(Shy({str(number): 1 for number in range(100_000)}), "at", problems)
    Json(16_384).read([Shy({str(number): 1 for number in range(100_000)})], "at", problems)
    Json(16_384).read({"a": "x" * 16_384}, "in", problems)
    assert list(map(str, problems)) == ["at: is larger than 16384 bytes", "in: is larger than 16384 bytes"]


def test_half_of_a_surrogate_pair_is_escaped_in_messages() -> None:
    """UTF-8 cannot encode it, so the message shows its number."""
    (problem,) = Problems([Problem("at.\ud800", "`\udfff` is wrong")])
    assert problem == Problem("at.\\ud800", "`\\udfff` is wrong")


def test_a_problem_is_reported_once_and_problems_add_up() -> None:
    """Also those that another collection only counted."""
    some = Problems(Problem(str(number), "is wrong") for number in range(100))
    some.append(Problem("0", "is wrong"))
    assert (len(some), some.full) == (100, False)
    some.append(Problem("100", "is wrong"))
    some.count(5)
    assert (len(some), some.full, len(list(some))) == (106, True, 101)
    assert not Problems()
