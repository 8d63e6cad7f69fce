"""How large and how deep a JSON value is, and whether databases and protobuf can hold it."""

import json
import re
from collections.abc import Mapping
from typing import Any

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL as JSON writes it, and not a backslash before `u0000`."""
_MANY_DIGITS = re.compile(r"[0-9]{309}")


def depth_exceeds(value: Any, most: int) -> bool:
    """Whether lists and objects nest more than `most` levels, found without recursion."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list | tuple)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return False
    return True


def is_surely_larger(value: Any, max_bytes: int, depth: int) -> bool:
    """Whether the JSON of `value`, down to `depth`, has more members or characters than fit into so many bytes."""
    level, left = [value], max_bytes
    for _ in range(depth + 1):
        inner: list[Any] = []
        for outer in level:
            if isinstance(outer, str):
                left -= len(outer)
            elif isinstance(outer, Mapping | list | tuple):
                left -= 2 * len(outer)  # each takes a byte at least, and one that sets it apart
                if left < 0:
                    return True
                inner.extend(outer.values() if isinstance(outer, Mapping) else outer)
        level = inner
    return left < 0


def json_size(compact: str) -> int:
    """Bytes in UTF-8 of compact JSON whose numbers are written out: PostgreSQL gives 1e300 back with all its digits."""
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
