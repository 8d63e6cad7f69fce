"""The canonical form of RFC 8785: one text for each value."""

import json
import struct
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.json.canonical_json import double, dumps

texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_in_the_rfc(bits: str, text: str) -> None:
    """The samples of its appendix B."""
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert dumps(number).decode() == text


def test_a_document_is_written_as_in_the_rfc() -> None:
    """The samples of its sections 3.2.2 and 3.2.3: numbers, escapes, and names by their UTF-16 code units."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '\u20ac$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert dumps(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    assert list(json.loads(dumps(dict.fromkeys(names, 0)))) == [
        "\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [(7500, 7500.0), (0, -0.0), (10**21, 1e21), (2**53 + 1, 2.0**53)])
def test_equal_doubles_are_written_equally(one: float, other: float) -> None:
    """Whole or not, and as an int or a float of Python."""
    assert dumps(one) == dumps(other)


@pytest.mark.parametrize("value", [nan, inf, -inf, 10**400, {1, 2}, b"x", object(), "\ud800", {"\ud800": 1}, {1: 2}])
def test_a_value_outside_json_is_refused(value: Any) -> None:
    """It raises an error instead of writing another value."""
    with pytest.raises((ValueError, TypeError)):
        dumps([value])


@given(values)
def test_written_numbers_read_back_as_the_same_doubles(value: Any) -> None:
    """They are written the same again, in at most 25 characters each."""
    text = dumps(value)
    assert dumps(json.loads(text)) == text
    assert dumps(json.loads(json.dumps(value))) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_keeps_its_value_in_25_characters(number: float) -> None:
    """Also in Python's JSON, after `double`."""
    assert double(number) == number
    assert max(len(dumps(number)), len(json.dumps(double(number)))) <= 25
