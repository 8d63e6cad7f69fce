"""Beginnings and ends of texts as equality: of the first or last characters of a text, for a few lengths."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from pdp.core.index.constraints import Among, Between, Constraint, Dimension, Outside, Partly

MAX_LENGTHS = 8
"""Of one end of a field. Each is a part of the text that every decision looks up."""

Resolved: TypeAlias = Among | Outside | Between
Kept: TypeAlias = dict[tuple[str, bool], list[int]]


def resolved(needs: Iterable[Sequence[Constraint]]) -> list[list[Resolved]]:
    """The constraints of each item, with equality of first or last characters in place of parts of texts.

    A part is cut to one of the most frequent lengths; one that is shorter than all of them constrains nothing.
    """
    rows = [list(row) for row in needs]
    used = Counter((one.field, one.at_end, _length(one)) for row in rows for one in row if isinstance(one, Partly))
    kept: Kept = {}
    for (field, at_end, length), _ in used.most_common():
        lengths = kept.setdefault((field, at_end), [])
        if len(lengths) < MAX_LENGTHS:
            lengths.append(length)
    return [[found for one in row if (found := _resolved(one, kept)) is not None] for row in rows]


def _resolved(one: Constraint, kept: Kept) -> Resolved | None:
    if not isinstance(one, Partly):
        return one
    length = max((length for length in kept[one.field, one.at_end] if length <= _length(one)), default=0)
    if not length:
        return None
    cut = slice(-length, None) if one.at_end else slice(length)
    values = frozenset(text[cut] for text in (*one.parts, *one.others))
    return Among(Dimension(one.field, -length if one.at_end else length), values)


def _length(one: Partly) -> int:
    return min(map(len, one.parts))
