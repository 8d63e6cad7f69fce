"""The canonical form of a JSON value (RFC 8785): equal values give equal bytes in every implementation.

Every number is a double. Python's own encoder writes some doubles in other ways (`1e-05`, `1e+16`), and sorts names by
other units.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

MAX_EXACT = 2**53
"""A double holds every whole number up to this one exactly."""


def dumps(value: Any) -> bytes:
    """A JSON value in its canonical form. `ValueError` for a value that JSON cannot express."""
    return text(value).encode()


def double(value: float) -> float:
    """A number as a double; an int if the double is whole and exact, so that it is written without a fraction.

    `ValueError` if the double is not finite.
    """
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("the number is too large") from None
    if not isfinite(number):
        raise ValueError("the number is not finite")
    return int(number) if number.is_integer() and -MAX_EXACT <= number <= MAX_EXACT else number


def doubles(value: Any) -> Any:
    """A JSON value with its numbers as `double` has them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return double(value)
    if isinstance(value, Mapping):
        return {name: doubles(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [doubles(inner) for inner in value]
    return value


def text(value: Any) -> str:
    """The canonical form as text."""
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(double(value))
    if isinstance(value, Mapping):
        return "{" + ",".join([f"{encode_basestring(name)}:{text(value[name])}" for name in _sorted(value)]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text, value)) + "]"
    raise ValueError(f"`{type(value).__name__}` is not JSON")


def _number(number: float) -> str:
    """As ECMAScript writes it: the shortest digits, without an exponent from 1e-6 up to 1e21."""
    if isinstance(number, int):
        return str(number)
    if 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number)), "f").removesuffix(".0")
    return repr(number).replace("e-0", "e-")


def _sorted(names: Iterable[str]) -> list[str]:
    """Names in the order of their UTF-16 code units."""
    return sorted(names) if "".join(names).isascii() else sorted(names, key=_units)


def _units(name: str) -> bytes:
    return name.encode("utf-16-be")
