"""The decision log redacts what a path names, and nothing else."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.decision_log.redaction import NOTHING, BadPathError, Redaction

ATTRIBUTES: dict[str, Any] = {
    "customer": {"ssn": "123-45-6789", "name": "Ada", "address": {"city": "Rome", "zip": "00100"}},
    "cards": [{"number": "4111", "brand": "visa"}, {"number": "5500", "brand": "mc"}],
    "customer.ssn": "written flat",
    "scores": [1, 2, 3],
    "note": None,
}
HIDDEN = "[redacted]"


def redacted(*paths: str) -> dict[str, Any]:
    """The attributes without what these paths name."""
    return Redaction.of(paths)(ATTRIBUTES)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("note", {"note": HIDDEN}),
        ("customer.address", {"customer": {"ssn": "123-45-6789", "name": "Ada", "address": HIDDEN}}),
        ("cards.*.number", {"cards": [{"number": HIDDEN, "brand": "visa"}, {"number": HIDDEN, "brand": "mc"}]}),
        ("cards.1.number", {"cards": [{"number": "4111", "brand": "visa"}, {"number": HIDDEN, "brand": "mc"}]}),
        ("cards.*", {"cards": [HIDDEN, HIDDEN]}),
        ("cards", {"cards": HIDDEN}),
        ("scores.*", {"scores": [HIDDEN] * 3}),
        ("customer.name.first", {}),
        ("nothing.here", {}),
        ("cards.number", {}),
    ],
)
def test_a_path_names_a_value_and_all_within_it(path: str, changes: dict[str, Any]) -> None:
    """By keys, by places in lists, and by `*` for any of them."""
    assert redacted(path) == ATTRIBUTES | changes


def test_a_key_with_dots_in_it_is_reached_by_the_same_path() -> None:
    """The path `customer.ssn` matches both spellings."""
    found = redacted("customer.ssn")
    assert found["customer"]["ssn"] == found["customer.ssn"] == HIDDEN
    assert Redaction.of(["a.b.c"])({"a.b": {"c": 1, "d": 2}, "a": {"b.c": 3}}) == {
        "a.b": {"c": HIDDEN, "d": 2},
        "a": {"b.c": HIDDEN},
    }
    assert redacted("customer")["customer.ssn"] == HIDDEN


def test_a_star_hides_every_attribute() -> None:
    """Keys stay, so that one sees what was there."""
    assert redacted("*") == dict.fromkeys(ATTRIBUTES, HIDDEN)


def test_several_paths_hide_each_its_own() -> None:
    """They do not affect each other."""
    found = redacted("customer.ssn", "customer.address.zip", "scores.0")
    assert found["customer"] == {"ssn": HIDDEN, "name": "Ada", "address": {"city": "Rome", "zip": HIDDEN}}
    assert found["scores"] == [HIDDEN, 2, 3]


def test_the_action_itself_is_not_changed() -> None:
    """Policies and the approval's hash see what was sent."""
    before = copy.deepcopy(ATTRIBUTES)
    redacted("*.*", "cards.*.number")
    assert before == ATTRIBUTES


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_without_paths_everything_stays(value: Any) -> None:
    """The default."""
    assert NOTHING({"x": value}) == {"x": value}


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a" * 1025])
def test_an_invalid_path_is_refused(path: str) -> None:
    """With what it should be."""
    with pytest.raises(BadPathError, match=r"is not a dotted path|is longer than 1024"):
        Redaction.of([path])


def test_there_are_at_most_a_hundred_paths() -> None:
    """Each is tried on each attribute."""
    with pytest.raises(BadPathError, match="more than 100"):
        Redaction.of(str(number) for number in range(101))
