"""JSON as RFC 8259 has it, and nothing that two readers could read as two things."""

import json
from collections import Counter
from math import isinf
from typing import Any, NoReturn


def loads(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8, which has no byte order mark. `ValueError` for other encodings, for NaN,
    Infinity and numbers that no double holds, for half of a surrogate pair, for a name that stands in an object twice,
    and for text nested too deep; the message fits after "is not JSON: ".
    """
    try:
        value = json.loads(
            _decoded(raw),
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_repeats,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if b"\\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()  # half of a pair has no UTF-8: UnicodeEncodeError
    return value


def _decoded(raw: bytes) -> str:
    # Given bytes, `json.loads` would guess among five encodings.
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark")
    if "\0" in text:
        raise ValueError("it holds a NUL: it is not UTF-8, or not text")
    return text


def _whole(text: str) -> int:
    if len(text) > _SURELY_DOUBLE:
        _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"`{text[:20]}` is too large for a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not a JSON number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"`{twice}` stands in an object twice")
    return members


_SURELY_DOUBLE = 300
"""A whole number of so few characters is within the range of doubles."""
