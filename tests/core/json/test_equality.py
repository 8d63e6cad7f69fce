"""When two JSON values are equal."""

from typing import Any

import pytest

from pdp.core.json.equality import json_equal, same_json


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, None, True),
        (None, False, False),
        ("1", 1, False),
        ([1, [2]], (1, (2,)), True),
        ([1, [2]], [1, [True]], False),
        ([1], [1, 1], False),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({}, [], False),
        ([], {}, False),
        ([], "", False),
        (2**53 + 1, 2**53, True),
        (10**22 + 1, 1e22, True),
        (2**53 + 2, 2**53, False),
        (10**400, 10**400 + 1, False),
        (10**400, 1e308, False),
        (float(2**60), True, False),
    ],
)
def test_json_values_are_equal_by_value_and_kind(left: Any, right: Any, equal: bool) -> None:
    """Numbers as doubles, truth values only to themselves, containers part by part; either way round."""
    assert json_equal(left, right) is equal
    assert json_equal(right, left) is equal


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        ({"a": [1e300]}, {"a": (10**300,)}, True),
        (2**53 + 1, 2**53, False),
        (2**53 + 1, float(2**53), True),
        (10**400, 1e308, False),
    ],
)
def test_a_change_of_one_digit_is_a_change(left: Any, right: Any, same: bool) -> None:
    """Whole numbers that are one double are told apart, unless one of them is written as a fraction."""
    assert same_json(left, right) is same
    assert same_json(right, left) is same
