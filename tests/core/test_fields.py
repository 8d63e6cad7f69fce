"""The kinds of value of a record: what each reads, the faults that it reports, and its schema."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.core.errors import InvalidActionError, InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, Kind, join, quote, read_fields, schema_of
from pdp.core.json.measures import depth_exceeds
from pdp.core.kinds import (
    Choice,
    Dollars,
    Flag,
    Json,
    ListOf,
    MapOf,
    Moment,
    Number,
    ObjectOf,
    OneOf,
    OrNull,
    Text,
    Whole,
    Zone,
    is_zone,
)


class Colour(Enum):
    RED = "r"
    DARK_BLUE = "d"


TEXT = Text(5, 2, "[a-z]+", "lower case")
LIST = ListOf(Whole(0, 9), 3, 1)
MAP = MapOf(Text(3, 1), Whole(0, 9), 2, 1)
EITHER = OneOf(Text(3), ListOf(Text(3), 2), lambda value: isinstance(value, list))
PAIR = ObjectOf({"x": Field(Whole(0, 9), required=True), "on": Field(Flag(), True)})
NESTED: Any = {"a": [{"b": [1]}]}

READ: list[tuple[Kind, Any, Any, list[str]]] = [
    (TEXT, "ab", "ab", []),
    (TEXT, "abcde", "abcde", []),
    (TEXT, "a", "a", ["at: is shorter than 2 characters"]),
    (TEXT, "", "", ["at: is empty"]),
    (TEXT, "abcdef", "abcdef", ["at: is longer than 5 characters"]),
    (TEXT, "ab1", "ab1", ["at: `ab1` is not lower case"]),
    (TEXT, "ab\n", "ab\n", ["at: `ab\n` is not lower case"]),
    (TEXT, 5, "", ["at: `5` is not a string"]),
    (TEXT, None, "", ["at: `null` is not a string"]),
    (Text(5), "", "", []),
    (Text(5), "a\0b", "a\0b", ["at: holds a NUL or half of a surrogate pair"]),
    (Text(5), "\ud800", "\ud800", ["at: holds a NUL or half of a surrogate pair"]),
    (Text(5), "😀", "😀", []),
    (Moment(), "2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC), []),
    (Moment(), "2030-01-31T12:00:00+01:00", datetime(2030, 1, 31, 11, tzinfo=UTC), []),
    (Moment(), "2030-01-31T12:00:00", None, ["at: `2030-01-31T12:00:00` is not a time such as 2030-01-31T12:00:00Z"]),
    (Moment(), "9999-12-31T23:59:59Z", None, ["at: `9999-12-31T23:59:59Z` is not a time such as 2030-01-31T12:00:00Z"]),
    (Moment(), 5, None, ["at: `5` is not a time such as 2030-01-31T12:00:00Z"]),
    (Choice(Colour), "red", Colour.RED, []),
    (Choice(Colour), "dark_blue", Colour.DARK_BLUE, []),
    (Choice(Colour), "RED", Colour.RED, ["at: `RED` is not one of red, dark_blue"]),
    (Choice(Colour), ["red"], Colour.RED, ['at: `["red"]` is not one of red, dark_blue']),
    (Choice(Colour), None, Colour.RED, ["at: `null` is not one of red, dark_blue"]),
    (Whole(1, 3), 1, 1, []),
    (Whole(1, 3), 3, 3, []),
    (Whole(1, 3), 2.0, 2, []),
    (Whole(1, 3), 0, 0, ["at: `0` is not within 1 to 3"]),
    (Whole(1, 3), 4, 4, ["at: `4` is not within 1 to 3"]),
    (Whole(1, 3), 1.5, 1, ["at: `1.5` is not a whole number from 1 to 3"]),
    (Whole(1, 3), True, 1, ["at: `true` is not a whole number from 1 to 3"]),
    (Whole(1, 3), "1", 1, ["at: `1` is not a whole number from 1 to 3"]),
    (Whole(1, 3), float("nan"), 1, ["at: `NaN` is not a whole number from 1 to 3"]),
    (Number(0.5, 2), 0.5, 0.5, []),
    (Number(0.5, 2), 2, 2, []),
    (Number(0.5, 2), 0.4, 0.4, ["at: `0.4` is not a number from 0.5 to 2"]),
    (Number(0.5, 2), 2.1, 2.1, ["at: `2.1` is not a number from 0.5 to 2"]),
    (Number(0.5), 1e300, 1e300, []),
    (Number(0.5), 0, 0, ["at: `0` is not a number of at least 0.5"]),
    (Number(0.5), float("inf"), 0.5, ["at: `Infinity` is not a number of at least 0.5"]),
    (Number(0.5), float("nan"), 0.5, ["at: `NaN` is not a number of at least 0.5"]),
    (Number(0.5), 10**400, 0.5, [f"at: `1{'0' * 76}…` is not a number of at least 0.5"]),
    (Number(0.5), True, 0.5, ["at: `true` is not a number of at least 0.5"]),
    (Number(0.5), "1", 0.5, ["at: `1` is not a number of at least 0.5"]),
    (Dollars(), 0, Decimal(0), []),
    (Dollars(), 0.1, Decimal("0.1"), []),
    (Dollars(), "12.345678", Decimal("12.345678"), []),
    (Dollars(), 1_000_000_000, Decimal(1_000_000_000), []),
    (Dollars(), 1_000_000_001, Decimal(0), ["at: `1000000001` is not within 0 to 1000000000"]),
    (Dollars(), -0.01, Decimal(0), ["at: `-0.01` is not within 0 to 1000000000"]),
    (Dollars(), "NaN", Decimal(0), ["at: `NaN` is not within 0 to 1000000000"]),
    (Dollars(), "1.2345678", Decimal("1.2345678"), ["at: `1.2345678` has more than six decimal places"]),
    (Dollars(), "ten", Decimal(0), ["at: `ten` is not an amount in US dollars"]),
    (Dollars(), True, Decimal(0), ["at: `true` is not an amount in US dollars"]),
    (Dollars(), [1], Decimal(0), ["at: `[1]` is not an amount in US dollars"]),
    (Dollars(), None, Decimal(0), ["at: `null` is not an amount in US dollars"]),
    (Flag(), True, True, []),
    (Flag(), False, False, []),
    (Flag(), 1, False, ["at: `1` is not true or false"]),
    (LIST, [1], (1,), []),
    (LIST, (1, 2, 3), (1, 2, 3), []),
    (LIST, [], (), ["at: is empty"]),
    (LIST, [1, 2, 3, 4], (), ["at: has more than 3 items"]),
    (
        LIST,
        [1, 99, "x"],
        (1, 99, 0),
        ["at[1]: `99` is not within 0 to 9", "at[2]: `x` is not a whole number from 0 to 9"],
    ),
    (LIST, [1, 2, 1], (1, 2, 1), ["at[2]: duplicate item `1`"]),
    (LIST, [1, 1.0], (1, 1), ["at[1]: duplicate item `1.0`"]),
    (LIST, "123", (), ["at: `123` is not a list"]),
    (ListOf(Json(99), 3), [{"a": 1}, {"a": 1}], ({"a": 1}, {"a": 1}), ['at[1]: duplicate item `{"a": 1}`']),
    (ListOf(Whole(0, 9), 3, distinct=False), [1, 1], (1, 1), []),
    (ListOf(Whole(0, 9), 3), [], (), []),
    (MAP, {"a": 1}, {"a": 1}, []),
    (MAP, {"a": 1, "b": 9}, {"a": 1, "b": 9}, []),
    (MAP, {}, {}, ["at: is empty"]),
    (MAP, {"a": 1, "b": 2, "c": 3}, {}, ["at: has more than 2 entries"]),
    (
        MAP,
        {"long": 1, "b": 10},
        {"long": 1, "b": 10},
        ["at.long: is longer than 3 characters", "at.b: `10` is not within 0 to 9"],
    ),
    (MAP, [], {}, ["at: `[]` is not an object"]),
    (PAIR, {"x": 5}, {"x": 5, "on": True}, []),
    (PAIR, {"y": 5}, {"x": None, "on": True}, ["at.y: unknown field", "at.x: is required"]),
    (Json(18), NESTED, NESTED, []),
    (Json(17), NESTED, NESTED, []),
    (Json(16), NESTED, NESTED, ["at: is larger than 16 bytes"]),
    (Json(14), {"a": "жжж"}, {"a": "жжж"}, []),
    (Json(13), {"a": "жжж"}, {"a": "жжж"}, ["at: is larger than 13 bytes"]),
    (Json(999), [10**308, -(10**308), "9" * 309], [10**308, -(10**308), "9" * 309], []),
    (Json(999), [10**309], [10**309], ["at: holds a whole number that is too large"]),
    (Json(99, 4), NESTED, NESTED, []),
    (Json(99, 3), NESTED, {}, ["at: is nested more than 3 levels deep"]),
    (Json(99, only_object=True), {}, {}, []),
    (Json(99, only_object=True), [1], {}, ["at: `[1]` is not an object"]),
    (Json(99), {"a": float("nan")}, {}, ["at: is not JSON"]),
    (Json(99), {"a": {1, 2}}, {}, ["at: is not JSON"]),
    (Json(99), {"a": "\0"}, {"a": "\0"}, ["at: holds a NUL or half of a surrogate pair"]),
    (Json(99), {"a": r"\u0000"}, {"a": r"\u0000"}, []),
    (Json(99), {"a": "\\\0"}, {"a": "\\\0"}, ["at: holds a NUL or half of a surrogate pair"]),
    (Json(99), {"\ud83d": 1}, {"\ud83d": 1}, ["at: holds a NUL or half of a surrogate pair"]),
    (Json(99), "😀", "😀", []),
    (Zone(), "America/New_York", "America/New_York", []),
    (Zone(), "Mars/Phobos", "UTC", ["at: `Mars/Phobos` is not the IANA name of a time zone"]),
    (Zone(), "../etc/passwd", "UTC", ["at: `../etc/passwd` is not the IANA name of a time zone"]),
    (Zone(), "", "UTC", ["at: `` is not the IANA name of a time zone"]),
    (Zone(), None, "UTC", ["at: `null` is not the IANA name of a time zone"]),
    (EITHER, "abc", "abc", []),
    (EITHER, ["abc"], ("abc",), []),
    (EITHER, 5, "", ["at: `5` is not a string"]),
    (EITHER, [5], ("",), ["at[0]: `5` is not a string"]),
    (OrNull(Whole(1, 3)), None, None, []),
    (OrNull(Whole(1, 3)), 2, 2, []),
    (OrNull(Whole(1, 3)), 4, 4, ["at: `4` is not within 1 to 3"]),
]


@pytest.mark.parametrize(("kind", "value", "expected", "messages"), READ, ids=lambda part: type(part).__name__)
def test_a_kind_reads_its_values_and_names_every_fault(
    kind: Kind, value: Any, expected: Any, messages: list[str]
) -> None:
    """The result has the right type even if the value does not."""
    problems = Problems()
    read = kind.read(value, "at", problems)
    assert (read, type(read)) == (expected, type(expected))
    assert list(map(str, problems)) == messages


STRING = {"type": "string", "maxLength": 3}


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Text(3), STRING),
        (
            Text(3, 1, "a|b", "it", format="email"),
            STRING | {"minLength": 1, "pattern": "^(?:a|b)$", "format": "email"},
        ),
        (Choice(Colour), {"type": "string", "enum": ["red", "dark_blue"]}),
        (Whole(1, 3), {"type": "integer", "minimum": 1, "maximum": 3}),
        (Number(1), {"type": "number", "minimum": 1}),
        (Number(1, 2), {"type": "number", "minimum": 1, "maximum": 2}),
        (Dollars(), {"type": "number", "minimum": 0, "maximum": 1_000_000_000, "multipleOf": 0.000001}),
        (Flag(), {"type": "boolean"}),
        (ListOf(Text(3), 2), {"type": "array", "items": STRING, "maxItems": 2, "uniqueItems": True}),
        (
            ListOf(Text(3), 2, 1, distinct=False),
            {"type": "array", "items": STRING, "maxItems": 2, "minItems": 1},
        ),
        (
            MapOf(Text(3), Flag(), 2, 1),
            {
                "type": "object",
                "propertyNames": STRING,
                "additionalProperties": {"type": "boolean"},
                "maxProperties": 2,
                "minProperties": 1,
            },
        ),
        (
            PAIR,
            {
                "type": "object",
                "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "on": {"type": "boolean"}},
                "additionalProperties": False,
                "required": ["x"],
            },
        ),
        (Json(9), {}),
        (Json(9, only_object=True), {"type": "object"}),
        (Moment(), {"type": "string", "format": "date-time"}),
        (Zone(), {"type": "string", "maxLength": 64, "examples": ["UTC", "America/New_York"]}),
        (OneOf(Text(3), Flag(), bool), {"anyOf": [STRING, {"type": "boolean"}]}),
        (OrNull(Text(3)), {"anyOf": [STRING, {"type": "null"}]}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_kind_has_a_json_schema(kind: Kind, schema: dict[str, Any]) -> None:
    """The schema uses the keywords of JSON Schema."""
    assert kind.schema() == schema


FIELDS = {"name": Field(Text(3), required=True, about="What it is"), "on": Field(Flag(), True)}


def test_fields_are_read_with_their_defaults() -> None:
    """Given fields are read, and missing fields get their defaults."""
    problems = Problems()
    assert read_fields({"name": "a"}, FIELDS, "", problems) == {"name": "a", "on": True}
    assert read_fields({"name": "a", "on": False}, FIELDS, "", problems) == {"name": "a", "on": False}
    assert not problems


@pytest.mark.parametrize(
    ("document", "messages"),
    [
        ({}, ["in.name: is required"]),
        ({"name": "a", "of": 1, "x": 2}, ["in.of: unknown field", "in.x: unknown field"]),
        ({"on": "yes"}, ["in.name: is required", "in.on: `yes` is not true or false"]),
        ([1], ["in: `[1]` is not an object", "in.name: is required"]),
    ],
)
def test_unknown_and_missing_fields_are_faults(document: Any, messages: list[str]) -> None:
    """All of them at once, each with its path."""
    problems = Problems()
    read_fields(document, FIELDS, "in", problems)
    assert list(map(str, problems)) == messages


def test_a_table_of_fields_has_a_json_schema() -> None:
    """A partial schema requires no field, and no schema allows unknown fields."""
    properties = {"name": STRING | {"description": "What it is"}, "on": {"type": "boolean"}}
    partial = {"type": "object", "properties": properties, "additionalProperties": False}
    assert schema_of(FIELDS, partial=True) == partial
    assert schema_of(FIELDS) == partial | {"required": ["name"]}


def test_a_path_is_joined_with_dots() -> None:
    """It does not begin with a dot."""
    assert (join("", "a"), join("a", "b"), join("a.b", 5)) == ("a", "a.b", "a.b.5")


def test_a_value_is_quoted_and_cut_to_fit_a_line() -> None:
    """At most eighty characters; text unchanged, every other value as JSON."""
    assert quote("x" * 80) == f"`{'x' * 80}`"
    assert quote("x" * 81) == f"`{'x' * 77}…`"
    assert quote({"a": None}) == '`{"a": null}`'
    assert quote(Decimal("1.5")) == '`"1.5"`'


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_depth_is_counted_without_recursion(value: Any) -> None:
    """The result equals that of a recursive count."""

    def depth(value: Any) -> int:
        if not isinstance(value, dict | list) or not value:
            return 0
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value))

    assert [depth_exceeds(value, most) for most in range(6)] == [depth(value) > most for most in range(6)]


def test_only_known_zones_are_accepted() -> None:
    """Odd names are refused without an exception."""
    assert is_zone("UTC")
    assert is_zone("Asia/Kathmandu")
    assert not any(map(is_zone, ["", "utc/", "/etc/localtime", "a\0b", "x" * 300, "Europe", "../UTC"]))


def test_problems_read_as_one_sentence() -> None:
    """Each problem with its path, if it has one."""
    problems = [Problem("a.b", "is empty"), Problem("", "is not JSON")]
    for error in (InvalidRecordError(iter(problems)), InvalidActionError(*problems)):
        assert str(error) == "a.b: is empty; is not JSON"
        assert error.problems == tuple(problems)
