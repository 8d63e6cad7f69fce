"""Strict JSON (RFC 8259): refuses every text that two parsers could read differently."""

import json
from collections import Counter
from math import isinf
from typing import Any, NoReturn


def loads(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8 without a byte order mark.

    `ValueError` for another encoding, for NaN, Infinity and numbers too large for a double, for half of a surrogate
    pair, for a duplicate name in an object, and for text nested too deep; the message fits after "is not JSON: ".
    """
    try:
        value = json.loads(
            _decoded(raw),
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_reject_constant,
            object_pairs_hook=_unique_members,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if b"\\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError for half of a surrogate pair
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
    if len(text) > _MAX_DOUBLE_CHARACTERS:
        _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"`{text[:20]}` is too large for a number")
    return number


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not a JSON number")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        ((duplicate, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"duplicate name `{duplicate}` in an object")
    return members


_MAX_DOUBLE_CHARACTERS = 300
"""A double can hold every whole number with no more characters than this."""
