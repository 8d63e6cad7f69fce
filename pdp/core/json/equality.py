"""Whether two JSON values are equal: `1` and `1.0` are, `1` and `true` are not."""

from collections.abc import Callable, Mapping
from typing import Any

from pdp.core.json.canonical_json import MAX_EXACT


def json_equal(left: Any, right: Any) -> bool:
    """Whether the values mean the same in a policy: numbers are doubles, so 2^53 + 1 equals 2^53."""
    return _equal(left, right, _same_double)


def same_json(left: Any, right: Any) -> bool:
    """Whether nothing changes if one value replaces the other: two whole numbers are compared digit by digit.

    A whole number and a fraction are compared as doubles, for PostgreSQL gives 1e300 back as a whole number.
    """
    return _equal(left, right, _same_double_in_two_forms)


def _equal(left: Any, right: Any, same_number: Callable[[Any, Any], bool]) -> bool:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key], same_number) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(
            _equal(one, other, same_number) for one, other in zip(left, right, strict=True)
        )
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right) or (_is_large(left) and _is_large(right) and same_number(left, right))


def _is_large(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) >= MAX_EXACT


def _same_double(left: float, right: float) -> bool:
    try:
        return float(left) == float(right)
    except OverflowError:  # a whole number that no double holds
        return False


def _same_double_in_two_forms(left: float, right: float) -> bool:
    return isinstance(left, float) != isinstance(right, float) and _same_double(left, right)
