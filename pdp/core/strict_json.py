"""JSON as RFC 8259 has it, and nothing that two readers could read as two things."""

import json
from collections import Counter
from math import isinf
from typing import Any, NoReturn


def loads(raw: bytes) -> Any:
    """The value of a JSON text. `ValueError` for NaN, Infinity and numbers read as that, for half of a surrogate pair,
    for a name that stands in an object twice, and for text nested too deep; the message fits after "is not JSON: ".
    """
    try:
        value = json.loads(
            raw, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if b"\\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()  # half of a pair has no UTF-8: UnicodeEncodeError
    return value


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
