"""Query parameters that a route does not have, or that come twice: refused, as unknown fields of a body are."""

from collections import Counter
from collections.abc import Collection
from urllib.parse import parse_qsl

MAX_PARAMETERS = 50
"""More than any route has. A query with more is not parsed."""


def has_too_many(query: bytes) -> bool:
    """Whether a query string has more parameters than are worth parsing."""
    return query.count(b"&") >= MAX_PARAMETERS


def problems_of(query: bytes, known: Collection[str]) -> list[tuple[str, str]]:
    """What is wrong with the names in a query string, as (name, message); each of `known` may come once."""
    if has_too_many(query):
        return [("", f"more than {MAX_PARAMETERS} query parameters")]
    counted = Counter(name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    return [
        (name, "is given more than once" if name in known else "unknown parameter")
        for name, times in counted.items()
        if name not in known or times > 1
    ]
