"""Items that many actions can meet: for each value of a dimension, a whole number with a bit for each item.

The bits of all dimensions together say which items can hold. The first item has the highest bit, for that is found at
once in a large number.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from pdp.core.index.constraints import Among, Between, Dimension, Outside, Readers, Resolved

MaskOf: TypeAlias = Callable[[Any, int, Any], int]

MAX_DIMENSIONS = 8
MIN_SHARE = 32
"""A dimension that fewer than one in so many items need is left to their tests."""
MAX_VALUES = 1024
"""Of a dimension: each takes a bit for every item. An item that needs another value is left to its tests."""

Rows: TypeAlias = Sequence[Sequence[Resolved]]


def mask_of_all(rows: Rows, readers: Readers) -> MaskOf | None:
    """(action, risk, local time) → the items that can hold, by all dimensions that are worth it; None: none is."""
    used = Counter(dimension for row in rows for dimension in {one.dimension for one in row})
    worth = [name for name, count in used.most_common(MAX_DIMENSIONS) if count * MIN_SHARE >= len(rows)]
    if not worth:
        return None
    first_of, *others_of = (_mask_of(dimension, rows, readers) for dimension in worth)

    def mask_of(action: Any, risk: int, local: Any) -> int:
        mask = first_of(action, risk, local)
        for other_of in others_of:
            if not mask:
                break
            mask &= other_of(action, risk, local)
        return mask

    return mask_of


def _mask_of(dimension: Dimension, rows: Rows, readers: Readers) -> MaskOf:
    own = [[one for one in row if one.dimension == dimension] for row in rows]
    if any(isinstance(one, Between) for row in own for one in row):
        return _by_number(dimension, own, readers)
    default, by_value = _by_value(own)
    several = readers.several(dimension)
    if several is not None:
        return _of_several(several, default, by_value, own)
    get, value_of = by_value.get, readers.one(dimension)
    return lambda a, r, t: get(value_of(a, r, t), default)


def _of_several(
    values_of: Callable[[Any, int], Collection[Any] | None],
    default: int,
    by_value: Mapping[Any, int],
    own: Sequence[Sequence[Resolved]],
) -> MaskOf:
    items, every = sum(map(bool, own)), (1 << len(own)) - 1

    def mask_of(action: Any, risk: int, local: Any) -> int:
        values = values_of(action, items)
        if values is None:
            return every
        mask = default
        for value in by_value.keys() & values:
            mask |= by_value[value]
        return mask

    return mask_of


def _by_value(own: Sequence[Sequence[Resolved]]) -> tuple[int, dict[Any, int]]:
    """The items that can hold for a value that is not named, and for each that is."""
    values = Counter(value for row in own for one in row if not isinstance(one, Between) for value in one.values)
    kept = {value for value, _ in values.most_common(MAX_VALUES)}
    default, flipped = 0, dict.fromkeys(kept, 0)
    for number, row in enumerate(own):
        bit = 1 << len(own) - 1 - number
        needed = _needed(row, kept)
        excluded = frozenset[Any]().union(*(one.values for one in row if isinstance(one, Outside)))
        if needed is None:
            default |= bit
            for value in excluded & kept:
                flipped[value] ^= bit
        else:
            for value in needed - excluded:
                flipped[value] ^= bit
    return default, {value: default ^ mask for value, mask in flipped.items()}


def _needed(row: Sequence[Resolved], kept: set[Any]) -> frozenset[Any] | None:
    """The values of which the item needs one; None if it needs none, or one that is not kept."""
    sets = [one.values for one in row if isinstance(one, Among) and one.values <= kept]
    return frozenset.intersection(*sets) if sets else None


def _by_number(dimension: Dimension, own: Sequence[Sequence[Resolved]], readers: Readers) -> MaskOf:
    bounds = _bounds(own)
    missing, changes = 0, [0] * (len(bounds) + 2)
    for number, row in enumerate(own):
        bit, ranges = 1 << len(own) - 1 - number, [one for one in row if isinstance(one, Between)]
        if all(one.missing for one in ranges):
            missing |= bit
        first = max((bisect_right(bounds, one.above) for one in ranges), default=0)
        last = min((bisect_left(bounds, one.below) for one in ranges), default=len(bounds))
        if first <= last:
            changes[first] ^= bit
            changes[last + 1] ^= bit
    by_cell, mask = [], 0
    for change in changes[:-1]:
        mask ^= change
        by_cell.append(mask)
    value_of = readers.one(dimension)

    def mask_of(action: Any, risk: int, local: Any) -> int:
        value = value_of(action, risk, local)
        return missing if value is None else by_cell[bisect_left(bounds, value)]

    return mask_of


def _bounds(own: Sequence[Sequence[Resolved]]) -> list[float]:
    """The numbers that separate the cells: cell n is above the bound n - 1 and at most at the bound n."""
    ends = {end for row in own for one in row if isinstance(one, Between) for end in (one.above, one.below)}
    bounds = sorted(ends)
    return bounds if len(bounds) <= MAX_VALUES else bounds[:: -(-len(bounds) // MAX_VALUES)]
