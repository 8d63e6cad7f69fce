"""Parts of texts as equality: the first or last characters of a text, or some inside of it, for a few lengths."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from pdp.core.index.constraints import Among, Constraint, Containing, Dimension, Partly, Resolved
from pdp.core.index.inside import chosen

MAX_LENGTHS = 8
"""Of one end of a field. Each is a part of the text that every decision looks up."""

Kept: TypeAlias = dict[tuple[str, bool], list[int]]


def resolved(needs: Iterable[Sequence[Constraint]]) -> list[list[Resolved]]:
    """The constraints of each item, with equality of some characters in place of parts of texts.

    A beginning or end is cut to one of the most frequent lengths; one that is shorter than all of them constrains
    nothing.
    """
    rows = [list(row) for row in needs]
    used = Counter((one.field, one.at_end, _length(one)) for row in rows for one in row if isinstance(one, Partly))
    kept: Kept = {}
    for (field, at_end, length), _ in used.most_common():
        lengths = kept.setdefault((field, at_end), [])
        if len(lengths) < MAX_LENGTHS:
            lengths.append(length)
    inside = _inside(one for row in rows for one in row if isinstance(one, Containing))
    return [[found for one in row if (found := _resolved(one, kept, inside)) is not None] for row in rows]


def _inside(given: Iterable[Containing]) -> Mapping[Containing, str]:
    """For each constraint the part by which it is looked up."""
    constraints = list(dict.fromkeys(given))
    return dict(zip(constraints, chosen([one.parts for one in constraints]), strict=True))


def _resolved(one: Constraint, kept: Kept, inside: Mapping[Containing, str]) -> Resolved | None:
    if isinstance(one, Containing):
        part = inside[one]
        return Among(Dimension(one.field, len(part), inside=True), one.others | {part})
    return _cut(one, kept) if isinstance(one, Partly) else one


def _cut(one: Partly, kept: Kept) -> Resolved | None:
    length = max((length for length in kept[one.field, one.at_end] if length <= _length(one)), default=0)
    if not length:
        return None
    cut = slice(-length, None) if one.at_end else slice(length)
    values = frozenset(text[cut] for text in (*one.parts, *one.others))
    return Among(Dimension(one.field, -length if one.at_end else length), values)


def _length(one: Partly) -> int:
    return min(map(len, one.parts))
