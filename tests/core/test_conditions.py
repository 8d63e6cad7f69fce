"""The operators of a policy's conditions: what they accept, and that their compiled form means the same."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.action import Action
from pdp.core.conditions import (
    MISSING,
    OPERATORS,
    attribute,
    check,
    clauses,
    literals,
    matches_action_type,
)
from pdp.core.errors import Problems
from pdp.core.localtime import LocalTime
from tests.core.worlds import ATTRIBUTES, CONDITIONS, actions

local_times = st.builds(LocalTime, st.integers(0, 23), st.just(0), st.integers(1, 7), st.just(0))
wildcards = ["*", "*", "?", "[ab]", "[!a]", "[]a]", "[b-a]"]
pieces = ["a", "ab", "A", "é", "数", "b-a-b-a", "[", "]", "!", "\n"]
glob_texts = st.one_of(
    st.text("ab*?[]!-\n", min_size=1, max_size=8),
    st.lists(st.sampled_from([*wildcards, *pieces]), min_size=1, max_size=6).map("".join),
    st.tuples(st.sampled_from(["", "*"]), st.sampled_from(pieces), st.just("*")).map("".join),
)
globs = glob_texts.map(lambda glob: ("resource_matches", glob))
resources = st.one_of(
    st.text("ab-\n", min_size=1, max_size=5),
    st.lists(st.sampled_from(pieces), min_size=1, max_size=8).map("".join),
    st.tuples(st.sampled_from(pieces), st.sampled_from(pieces)).map(lambda two: (two[0] * 2000 + two[1])[-2048:]),
)
hours = st.tuples(st.integers(0, 23), st.integers(1, 24)).map(lambda h: {"hour_after": h[0], "hour_before": h[1]})
conditions = st.one_of(
    st.one_of(st.sampled_from(CONDITIONS), globs).map(lambda pair: dict([pair])),
    hours.filter(lambda pair: pair["hour_after"] != pair["hour_before"]),
)

with_resources = st.builds(Action, st.just("a"), st.just("b"), resources)


@given(conditions, st.one_of(actions, with_resources), st.integers(0, 100), local_times, st.booleans())
def test_a_compiled_condition_holds_when_it_should(
    given: dict[str, Any], action: Action, risk: int, local: LocalTime, missing: bool
) -> None:
    """For every operator the compiled form agrees with `seen` and `holds`, and returns `missing` without a value."""
    for _, operator, operand in clauses(given):
        seen = operator.seen(action, risk, local, operand)
        expected = missing if seen is MISSING else operator.holds(seen, operand)
        assert operator.compiled(operand, missing)(action, risk, local) is expected


@given(glob_texts, resources)
def test_what_a_glob_matches_has_its_literal_texts(glob: str, resource: str) -> None:
    """It begins with the first one, ends with the last one, and contains the others."""
    start, *inner = literals(glob)
    if fnmatchcase(resource, glob):
        assert resource.startswith(start)
        assert resource.endswith(inner[-1] if inner else start)
        assert all(text in resource for text in inner)


def test_only_a_closed_bracket_is_a_wildcard() -> None:
    """As a shell glob has it: a `]` that comes first, or after a `!`, is a character of the set."""
    assert literals("a[]b]c[!]d]e") == ["a", "c", "e"]
    assert literals("a[b*c]d?e") == ["a", "d", "e"]
    assert literals("a]b[!]*[") == ["a]b[!]", "["]


def test_every_operator_of_the_contract_exists() -> None:
    """And no other."""
    assert set(OPERATORS) == {
        *("action_type", "action_type_in", "risk_above", "risk_below", "amount_above", "amount_below"),
        *("resource_in", "resource_not_in", "resource_matches", "data_classification", "hour_after", "hour_before"),
        *("day_in", "mcp_server", "tool_in", "attribute_equals", "environment"),
    }


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_a_valid_condition_has_no_problems(condition: tuple[str, Any]) -> None:
    """The registry accepts every condition that the tests generate."""
    assert problems(dict([condition])) == []


def problems(conditions: Any) -> list[str]:
    found = Problems()
    check(conditions, "conditions", found)
    return [str(problem) for problem in found]


TYPE = "an action type (a prefix such as `database.*` goes into `action_type_in`)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"amount_over": 5}, ["conditions.amount_over: unknown operator `amount_over`; did you mean `amount_above`?"]),
        ({"zzz": 5}, ["conditions.zzz: unknown operator `zzz`"]),
        ({"action_type": "database.*"}, [f"conditions.action_type: `database.*` is not {TYPE}"]),
        ({"action_type": ""}, ["conditions.action_type: is empty"]),
        ({"action_type": "x" * 256}, []),
        ({"action_type": "x" * 257}, ["conditions.action_type: is longer than 256 characters"]),
        ({"action_type": ["a"]}, ['conditions.action_type: `["a"]` is not a string']),
        ({"action_type_in": []}, ["conditions.action_type_in: is empty"]),
        (
            {"action_type_in": ["a*"]},
            ["conditions.action_type_in[0]: `a*` is not an action type or a prefix that ends in `.*`"],
        ),
        ({"action_type_in": "a"}, ["conditions.action_type_in: `a` is not a list"]),
        ({"action_type_in": ["a", "a"]}, ["conditions.action_type_in[1]: duplicate item `a`"]),
        ({"risk_above": 0}, []),
        ({"risk_above": 99}, []),
        ({"risk_above": -1}, ["conditions.risk_above: `-1` is not within 0 to 99"]),
        ({"risk_above": 100}, ["conditions.risk_above: `100` is not within 0 to 99"]),
        ({"risk_above": True}, ["conditions.risk_above: `true` is not a whole number from 0 to 99"]),
        ({"risk_above": 1.5}, ["conditions.risk_above: `1.5` is not a whole number from 0 to 99"]),
        ({"risk_below": 1}, []),
        ({"risk_below": 0}, ["conditions.risk_below: `0` is not within 1 to 100"]),
        ({"risk_below": 100}, []),
        ({"risk_below": 101}, ["conditions.risk_below: `101` is not within 1 to 100"]),
        ({"risk_above": 29, "risk_below": 31}, []),
        ({"risk_above": 30, "risk_below": 31}, ["conditions.risk_below: no risk is above 30 and below 31"]),
        ({"risk_above": 31, "risk_below": 30}, ["conditions.risk_below: no risk is above 31 and below 30"]),
        ({"amount_above": 0}, []),
        ({"amount_above": -1}, ["conditions.amount_above: `-1` is not a number from 0 to 1e+15"]),
        ({"amount_above": 1e15}, []),
        ({"amount_above": 2e15}, ["conditions.amount_above: `2000000000000000.0` is not a number from 0 to 1e+15"]),
        ({"amount_below": "5"}, ["conditions.amount_below: `5` is not a number from 0 to 1e+15"]),
        ({"amount_below": 0}, ["conditions.amount_below: no amount is below 0"]),
        ({"amount_below": 0.01}, []),
        (
            {"amount_above": 5, "amount_below": 5},
            ["conditions.amount_below: no amount is above `amount_above` and below it"],
        ),
        ({"amount_above": 5, "amount_below": 5.01}, []),
        ({"resource_in": []}, ["conditions.resource_in: is empty"]),
        ({"resource_in": ["x" * 2049]}, ["conditions.resource_in[0]: is longer than 2048 characters"]),
        ({"resource_not_in": [""]}, ["conditions.resource_not_in[0]: is empty"]),
        ({"resource_matches": ""}, ["conditions.resource_matches: is empty"]),
        ({"resource_matches": "x" * 1025}, ["conditions.resource_matches: is longer than 1024 characters"]),
        ({"resource_matches": "x" * 1024}, []),
        ({"data_classification": 5}, ["conditions.data_classification: `5` is not a string"]),
        ({"data_classification": []}, ["conditions.data_classification: is empty"]),
        ({"data_classification": ("pii",)}, []),
        ({"hour_after": 24}, ["conditions.hour_after: `24` is not within 0 to 23"]),
        ({"hour_after": -1}, ["conditions.hour_after: `-1` is not within 0 to 23"]),
        ({"hour_after": 23}, []),
        ({"hour_before": 25}, ["conditions.hour_before: `25` is not within 0 to 24"]),
        ({"hour_before": 0}, ["conditions.hour_before: no hour is at or after 0 and before 0"]),
        ({"hour_before": 0, "hour_after": 18}, []),
        ({"hour_before": 24, "hour_after": 0}, []),
        ({"hour_before": 9, "hour_after": 9}, ["conditions.hour_before: no hour is at or after 9 and before 9"]),
        ({"hour_before": 9, "hour_after": 10}, []),
        ({"day_in": []}, ["conditions.day_in: is empty"]),
        ({"day_in": [0]}, ["conditions.day_in[0]: `0` is not within 1 to 7"]),
        ({"day_in": [1, 2, 3, 4, 5, 6, 7]}, []),
        ({"day_in": [1, 2, 3, 4, 5, 6, 7, 8]}, ["conditions.day_in: has more than 7 items"]),
        ({"mcp_server": "a"}, []),
        ({"mcp_server": "a" * 256}, []),
        ({"mcp_server": "a" * 257}, ["conditions.mcp_server: is longer than 256 characters"]),
        ({"tool_in": [str(n) for n in range(4096)]}, []),
        ({"resource_in": ["a"]}, []),
        ({"resource_in": [str(n) for n in range(4096)]}, []),
        ({"resource_in": [str(n) for n in range(4097)]}, ["conditions.resource_in: has more than 4096 items"]),
        ({"action_type_in": ["a"]}, []),
        ({"action_type_in": ["a" * 254 + ".*"]}, []),
        ({"action_type_in": ["a" * 257]}, ["conditions.action_type_in[0]: is longer than 256 characters"]),
        ({"action_type_in": [str(n) for n in range(4096)]}, []),
        ({"action_type_in": [str(n) for n in range(4097)]}, ["conditions.action_type_in: has more than 4096 items"]),
        ({"amount_below": 10**15}, []),
        (
            {"amount_below": 10**15 + 1},
            ["conditions.amount_below: `1000000000000001` is not a number from 0 to 1e+15"],
        ),
        ({"mcp_server": ""}, ["conditions.mcp_server: is empty"]),
        ({"tool_in": ["a"] * 4097}, ["conditions.tool_in: has more than 4096 items"]),
        ({"tool_in": []}, ["conditions.tool_in: is empty"]),
        ({"attribute_equals": {}}, ["conditions.attribute_equals: is empty"]),
        ({"attribute_equals": {"": 1}}, ["conditions.attribute_equals.: is empty"]),
        ({"attribute_equals": {"a": float("inf")}}, ["conditions.attribute_equals.a: is not JSON"]),
        ({"attribute_equals": {"a": "x" * 4094}}, []),
        ({"attribute_equals": {"a": "x" * 4095}}, ["conditions.attribute_equals.a: is larger than 4096 bytes"]),
        ({"attribute_equals": {str(n): n for n in range(64)}}, []),
        (
            {"attribute_equals": {str(n): n for n in range(65)}},
            ["conditions.attribute_equals: has more than 64 entries"],
        ),
        (
            {"attribute_equals": {"x" * 513: 1}},
            [f"conditions.attribute_equals.{'x' * 77}…: is longer than 512 characters"],
        ),
        ({"environment": None}, ["conditions.environment: `null` is not a string"]),
        ([], []),
        (
            {"risk_above": "x", "risk_below": 0, "nothing": 1},
            [
                "conditions.risk_above: `x` is not a whole number from 0 to 99",
                "conditions.risk_below: `0` is not within 1 to 100",
                "conditions.nothing: unknown operator `nothing`",
            ],
        ),
    ],
    ids=lambda value: repr(value)[:80],
)
def test_each_fault_of_a_condition_is_named(given: Any, expected: list[str]) -> None:
    """All faults come at once with their paths; boundary values are accepted."""
    assert problems(given) == [message.removesuffix("?") for message in expected]


def test_hours_that_wrap_midnight_are_one_clause() -> None:
    """Each attribute is a separate clause; every other operator is one clause."""
    given = {"hour_after": 18, "attribute_equals": {"a": 1, "b": 2}, "hour_before": 6, "risk_above": 3}
    assert [(clause.name, clause.operand) for clause in clauses(given)] == [
        ("attribute_equals", ("a", 1)),
        ("attribute_equals", ("b", 2)),
        ("risk_above", 3),
        ("hour_after, hour_before", (18, 6)),
    ]
    assert [clause.name for clause in clauses({"hour_after": 6, "hour_before": 18})] == ["hour_after", "hour_before"]
    assert [clause.name for clause in clauses({"hour_before": 6})] == ["hour_before"]
    assert [clause.name for clause in clauses({"hour_after": 0})] == ["hour_after"]


def test_an_attribute_is_found_along_its_path() -> None:
    """A value that is absent, or below a value that is not an object, is missing and not null."""
    given = {"a": {"b": {"c": 0}}, "n": None, "l": [1]}
    assert attribute(given, "a.b.c") == 0
    assert attribute(given, "a.b") == {"c": 0}
    assert attribute(given, "n") is None
    assert [attribute(given, path) for path in ("x", "a.x", "n.x", "l.0", "a.b.c.d", "")] == [MISSING] * 6
    assert repr(MISSING) == "not given"
    assert attribute(ATTRIBUTES[4], "a.b") is None


def test_a_prefix_matches_what_is_below_it() -> None:
    """The prefix includes the dot."""
    assert matches_action_type("database.query", "database.*")
    assert not matches_action_type("database", "database.*")
    assert not matches_action_type("databases.query", "database.*")
    assert matches_action_type("a", "a")
    assert not matches_action_type("api.reads", "api.read")
    assert not matches_action_type("ab", "ac")
