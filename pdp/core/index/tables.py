"""Items that few actions can meet, by a value that the action must have."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from pdp.core.index.constraints import Among, Dimension, Resolved

MAX_BUCKET = 8
"""Items of one value. Each of them is tested, so more of them go where several values are combined."""
MIN_ITEMS = 4
"""Of a table: a look-up costs as much as the first test of an item or two."""
MAX_TABLES = 16

Table: TypeAlias = dict[Any, list[int]]
"""The numbers of items by the value that they need, ascending."""


def tables(needs: Sequence[Sequence[Resolved]]) -> tuple[dict[Dimension, Table], list[int]]:
    """The tables, and the numbers of the items that are in none of them."""
    found: dict[Dimension, Table] = {}
    rare = [_rare(row, counts) for counts in (_counts(needs),) for row in needs]
    popular = Counter(dimension for row in rare for dimension in row)
    left = list(range(len(needs)))
    for dimension, _ in popular.most_common(MAX_TABLES):
        taken = [number for number in left if dimension in rare[number]]
        if len(taken) < MIN_ITEMS:
            continue
        table = found[dimension] = {}
        for number in taken:
            for value in rare[number][dimension]:
                table.setdefault(value, []).append(number)
        left = [number for number in left if dimension not in rare[number]]
    return found, left


def _counts(needs: Sequence[Sequence[Resolved]]) -> Counter[tuple[Dimension, Any]]:
    return Counter((one.dimension, value) for row in needs for one in _equalities(row) for value in one.values)


def _rare(row: Sequence[Resolved], counts: Counter[tuple[Dimension, Any]]) -> dict[Dimension, frozenset[Any]]:
    """The dimensions of which the item needs values that few items need."""
    return {
        one.dimension: one.values
        for one in _equalities(row)
        if all(counts[one.dimension, value] <= MAX_BUCKET for value in one.values)
    }


def _equalities(row: Sequence[Resolved]) -> Iterator[Among]:
    return (one for one in row if isinstance(one, Among))
