"""How large and how deep a JSON value is, and whether databases and protobuf can hold it."""

import json
import re
from collections.abc import Mapping
from typing import Any

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL as JSON escapes it, but not an escaped backslash before `u0000`."""
_MANY_DIGITS = re.compile(r"[0-9]{309}")


def depth_exceeds(value: Any, max_depth: int) -> bool:
    """Whether lists and objects nest more than `max_depth` levels; without recursion."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list | tuple)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return False
    return True


def certainly_exceeds(value: Any, max_bytes: int, depth: int) -> bool:
    """Whether the JSON of `value`, down to `depth`, has too many members or characters for `max_bytes`."""
    level, left = [value], max_bytes
    for _ in range(depth + 1):
        inner: list[Any] = []
        for outer in level:
            if isinstance(outer, str):
                left -= len(outer)
            elif isinstance(outer, Mapping | list | tuple):
                left -= 2 * len(outer)  # each takes at least one byte and a separator
                if left < 0:
                    return True
                inner.extend(outer.values() if isinstance(outer, Mapping) else outer)
        level = inner
    return left < 0


def json_size(compact: str) -> int:
    """Bytes of compact JSON in UTF-8 with every number written out: PostgreSQL returns 1e300 with all its digits."""
    size = len(compact.encode())
    if "e+" not in compact:
        return size
    exponents: list[int] = []
    json.loads(compact, parse_float=lambda number: exponents.append(int(number.partition("e+")[2] or 0)))
    return size + sum(exponents)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold the text: it has no NUL and no half of a surrogate pair."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_storable_json(compact: str) -> bool:
    """Whether PostgreSQL can hold every text in this JSON."""
    return not _NUL.search(compact) and is_storable(compact)


def fits_doubles(compact: str) -> bool:
    """Whether protobuf, whose numbers are doubles, can carry every whole number of this JSON."""
    if not _MANY_DIGITS.search(compact):
        return True
    try:
        json.loads(compact, parse_int=lambda digits: float(int(digits)))
    except OverflowError:
        return False
    return True
