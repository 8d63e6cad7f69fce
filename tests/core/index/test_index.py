"""An index of policies against a look at each of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.core import compile as compiling
from pdp.core.action import Action
from pdp.core.compile import READERS, CompiledPolicy, PolicySet
from pdp.core.index import index, inside, masks, parts, tables
from pdp.core.index.constraints import Among, Dimension
from pdp.core.localtime import LocalTime
from pdp.core.model import PolicyRecord
from tests.core.records import policy_record
from tests.core.test_conditions import globs, hours, local_times, with_resources
from tests.core.worlds import CONDITIONS, actions

Question = tuple[Action, int, LocalTime]

numbered = st.integers(0, 30).flatmap(
    lambda n: st.sampled_from(
        [
            ("action_type", f"type-{n}"),
            ("action_type_in", [f"team-{n}.*", "api.read"]),
            ("resource_in", [f"r-{n}", "ledger"]),
            ("resource_matches", f"r-{n}*"),
            ("resource_matches", f"*{n}"),
            ("resource_matches", f"*-{n}*"),
            ("resource_matches", f"?*-{n}[!x]*-long-{n}-é-*"),
            ("resource_matches", f"[rR]*-{n}-?"),
            ("amount_above", n),
            ("amount_below", n + 1),
            ("risk_above", 3 * n),
            ("attribute_equals", {f"p{n}": 1}),
            ("attribute_equals", {"a": n}),
            ("data_classification", [f"label-{n}", "pii"]),
        ]
    )
)
conditions = st.one_of(
    st.lists(st.one_of(st.sampled_from(CONDITIONS), globs, numbered), max_size=3, unique_by=lambda pair: pair[0])
    .map(dict)
    .filter(lambda found: not {"hour_after", "hour_before"} <= found.keys()),
    hours.filter(lambda pair: pair["hour_after"] != pair["hour_before"]),
)
policy = st.fixed_dictionaries(
    {
        "conditions": conditions,
        "priority": st.integers(0, 5),
        "mode": st.sampled_from(["enforce", "enforce", "enforce", "shadow"]),
        "on_missing": st.sampled_from(["no_match", "match"]),
    }
)
policies = st.integers(0, 50).flatmap(lambda count: st.lists(policy, min_size=count, max_size=count))
named = st.builds(
    Action,
    st.just("a"),
    st.integers(0, 30).map(lambda n: f"type-{n}") | st.integers(0, 30).map(lambda n: f"team-{n}.do"),
    st.integers(0, 30).flatmap(lambda n: st.sampled_from([f"r-{n}", f"R/{n}/x-{n}-long-{n}-é-", f"r-{n}-é"]))
    | st.sampled_from(["", "ledger", "".join(f"x-{n}-long-{n}-é-" for n in range(200))[:2048]]),
    amount=st.none() | st.integers(0, 31).map(float),
    data_classifications=st.lists(st.integers(0, 30).map(lambda n: f"label-{n}"), max_size=2).map(tuple),
    attributes=st.dictionaries(st.sampled_from(["a", "p1", "p2"]), st.integers(0, 30) | st.booleans(), max_size=2),
)
questions = st.lists(
    st.tuples(st.one_of(actions, named, with_resources), st.integers(0, 100), local_times), min_size=8, max_size=16
)
LIMITS: Mapping[tuple[ModuleType, str], tuple[Any, ...]] = {
    (index, "MAX_SCANNED"): (0, 2, 16),
    (index, "SCANNED_SHARE"): (1, 2, 8),
    (index, "ITEMS_OF_VALUE"): (1, 32),
    (tables, "MAX_BUCKET"): (1, 2, 8),
    (tables, "MIN_ITEMS"): (1, 4),
    (tables, "MAX_TABLES"): (0, 1, 16),
    (parts, "MAX_LENGTHS"): (1, 2, 8),
    (inside, "LENGTHS"): ((1,), (2, 3), (5, 8, 12)),
    (inside, "MAX_BUCKET"): (1, 8),
    (inside, "MAX_PARTS"): (2, 32),
    (compiling, "ITEMS_OF_PART"): (0, 1, 4),
    (masks, "MAX_DIMENSIONS"): (1, 3, 8),
    (masks, "MAX_VALUES"): (1, 3, 1024),
}
limits = st.tuples(*(st.sampled_from(values) for values in LIMITS.values()))


@contextmanager
def limited(values: tuple[Any, ...]) -> Iterator[None]:
    """The index with other limits: with those of use, few policies would only be scanned."""
    with ExitStack() as patches:
        for (module, name), value in zip(LIMITS, values, strict=True):
            patches.enter_context(patch.object(module, name, value))
        yield


def records_of(given: list[dict[str, Any]]) -> list[PolicyRecord]:
    return [
        policy_record(**fields | {"policy_id": f"p-{number:02}", "conditions": _sound(fields["conditions"])})
        for number, fields in enumerate(given)
    ]


def _sound(given: dict[str, Any]) -> dict[str, Any]:
    """The conditions without the upper end of an empty range, which the registry refuses."""
    empty = {
        "risk_below": given.get("risk_above", -1) + 1 >= given.get("risk_below", 101),
        "amount_below": given.get("amount_above", -1) >= given.get("amount_below", 2e15)
        or not given.get("amount_below"),
    }
    return {name: operand for name, operand in given.items() if not empty.get(name)}


def indexed(records: list[PolicyRecord]) -> PolicySet:
    return PolicySet({CompiledPolicy(record): record for record in records})


def ids(policies: Iterable[CompiledPolicy]) -> list[str]:
    return [policy.policy_id for policy in policies]


@settings(max_examples=300)
@given(policies, questions, limits)
def test_an_index_finds_what_a_look_at_each_policy_finds(
    given: list[dict[str, Any]], asked: list[Question], values: tuple[Any, ...]
) -> None:
    """The first policy that holds, and every policy that does, in order; whatever the limits of the index."""
    records = records_of(given)
    with limited(values):
        found = indexed(records)
        for question in asked:
            holding = sorted(
                (policy for policy in map(CompiledPolicy, records) if all(test(*question) for test in policy.tests)),
                key=lambda policy: policy.order,
            )
            enforcing = [policy for policy in holding if not policy.shadow]
            first = found.enforcing.first(*question)
            assert ids([] if first is None else [first]) == ids(enforcing[:1])
            assert ids(found.enforcing.all(*question)) == ids(enforcing)
            assert ids(() if found.shadows is None else found.shadows.all(*question)) == ids(
                policy for policy in holding if policy.shadow
            )


MANY = 1000
LAST = {"risk_below": 60, "resource_in": ["reports"]}
QUESTION = (
    Action("a", "data.read", "reports", amount=5.0, environment="production", attributes={"customer": "gold"}),
    20,
    LocalTime(12, 720, 3, 0),
)
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "resources": lambda n: {"resource_in": [f"r-{n}"]},
    "action types": lambda n: {"action_type": f"type-{n}"},
    "prefixes of action types": lambda n: {"action_type_in": [f"team-{n}.*", f"type-{n}"]},
    "beginnings of resources": lambda n: {"resource_matches": f"customers/{n:05}/*"},
    "ends of resources": lambda n: {"resource_matches": f"*-{n:05}.csv"},
    "parts of resources": lambda n: {"resource_matches": f"*-{n:05}-*"},
    "short parts of resources": lambda n: {"resource_matches": f"*-{n}-*"},
    "one of several parts": lambda n: {"resource_matches": f"*customers-*-{n:05}[ab]*.csv?"},
    "parts that many share": lambda n: {"resource_matches": f"*-{n % 30}-*", "action_type": f"type-{n // 30}"},
    "labels": lambda n: {"data_classification": [f"label-{n}"]},
    "attributes": lambda n: {"attribute_equals": {"customer": f"c-{n}"}},
    "other attributes": lambda n: {"attribute_equals": {f"name-{n}.x": 1}},
    "amounts": lambda n: {"amount_above": 10 + n},
    "bands of amounts": lambda n: {"amount_above": 10 + n * 7919 % MANY, "amount_below": 12 + n * 7919 % MANY},
    "risks": lambda n: {"risk_above": 20 + n % 70},
    "hours and days": lambda n: {"hour_after": 13 + n % 10, "day_in": [1 + n % 7]},
    "pairs": lambda n: {"resource_in": [f"r-{n % 30}"], "action_type": f"type-{n // 30}"},
    "other resources": lambda n: {"resource_not_in": ["reports", f"r-{n}"]},
    "an environment that all need": lambda n: {"environment": "production", "amount_above": 10 + n},
}


@pytest.mark.parametrize("kind", KINDS)
def test_few_of_many_policies_are_tested(kind: str) -> None:
    """Of a thousand that do not hold, one in a hundred at most, whatever tells them apart."""
    tested: list[str] = []
    records = [
        policy_record(policy_id=f"p-{n}", priority=n, conditions=conditions)
        for n, conditions in enumerate([*map(KINDS[kind], range(MANY)), LAST])
    ]
    policies = {CompiledPolicy(record): record for record in records}
    for policy in policies:
        policy.tests = (partial(_seen, policy.policy_id, tested), *policy.tests)
    found = PolicySet(policies).enforcing.first(*QUESTION)
    assert found is not None
    assert found.policy_id == f"p-{MANY}"
    assert len(tested) <= 1 + MANY / 100


def _seen(name: str, tested: list[str], action: Action, risk: int, local: LocalTime) -> bool:
    tested.append(name)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_many_policies_hold_for_what_an_action_does_not_have(kind: str) -> None:
    """With `on_missing: match` an index finds those that a look at each finds."""
    question = (Action("a", "data.read"), 20, LocalTime(12, 720, 3, 0))
    records = [policy_record(policy_id=f"p-{n:03}", conditions=KINDS[kind](n), on_missing="match") for n in range(100)]
    holding = [
        policy.policy_id for policy in map(CompiledPolicy, records) if all(test(*question) for test in policy.tests)
    ]
    assert ids(indexed(records).enforcing.all(*question)) == holding


@pytest.mark.parametrize("count", [19, 20])
def test_a_text_is_cut_only_if_that_is_quicker_than_to_test_the_items(count: int) -> None:
    """A part takes as long as the tests of a few items, so a long text takes no longer than without an index."""
    values_of = READERS.several(Dimension("resource", 3, inside=True))
    assert values_of is not None
    assert values_of(Action("a", "b", "reports"), count) == (
        None if count < 20 else ["rep", "epo", "por", "ort", "rts"]
    )


def test_a_short_text_has_no_parts() -> None:
    """An empty one stands for an action without the text, which a policy may be for."""
    values_of = READERS.several(Dimension("resource", 3, inside=True))
    assert values_of is not None
    assert not values_of(Action("a", "b", "re"), 0)
    assert values_of(Action("a", "b"), 0) == ("",)


def test_an_item_is_found_by_a_part_that_few_share() -> None:
    """Of the first length in which there is one; else by the part that the fewest share."""
    alike, apart = ["data-"], [f"{n:05}" for n in range(20)]
    assert inside.chosen([[*alike, text] for text in apart]) == apart
    assert inside.chosen([[f"abcde-{n:02}"] for n in range(20)]) == [f"cde-{n:02}"[-5:] for n in range(20)]
    assert inside.chosen([["aaaaaa", text] for text in ("x", "y")]) == ["aaaaa"] * 2
    assert inside.chosen([["abcdefgh"]] * 20) == ["abcdefgh"] * 20
    assert inside.chosen([["ab"]] * 20) == ["ab"] * 20


def test_a_value_that_many_policies_name_takes_no_memory_for_each() -> None:
    """The values that most policies need have a mask; an item that needs another is left to its tests."""
    row = [Among(Dimension("resource"), frozenset({"common", f"r-{n}"})) for n in range(50)]
    with patch.object(masks, "MAX_VALUES", 3):
        mask_of = masks.mask_of_all([[one] for one in row], READERS)
    assert mask_of is not None
    assert mask_of(Action("a", "b", "nothing"), 0, QUESTION[2]).bit_count() == 48
    assert mask_of(Action("a", "b", "common"), 0, QUESTION[2]).bit_count() == 50
