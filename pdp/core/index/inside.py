"""Parts inside of texts: of all that a text must contain, a few characters that few items share."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from pdp.core.index.tables import MAX_BUCKET

LENGTHS = (5, 8, 12)
"""Characters of a part, the first that does. To look up one length takes as long as the text that is decided on."""
MAX_PARTS = 32
"""From which one is chosen, so that long texts take little time and memory."""


def chosen(items: Sequence[Sequence[str]]) -> list[str]:
    """For each item one part of the texts that it needs, of the first length in which few items share it.

    If many share each of its parts, it is the longest one that the fewest share. A shorter text is one part.
    """
    found = [""] * len(items)
    left = list(range(len(items)))
    for length in LENGTHS:
        parts = {number: _parts(items[number], length) for number in left}
        shared = Counter(chain.from_iterable(parts.values()))
        for number in left:
            found[number] = min(parts[number], key=shared.__getitem__)
        left = [number for number in left if shared[found[number]] > MAX_BUCKET and _longest(items[number]) > length]
    return found


def _parts(texts: Sequence[str], length: int) -> dict[str, None]:
    """The different parts of this length, in order; of many the first and last ones."""
    length = min(length, _longest(texts))
    found = [text[start : start + length] for text in texts for start in range(len(text) - length + 1)]
    half = MAX_PARTS // 2
    return dict.fromkeys(found if len(found) <= MAX_PARTS else (*found[:half], *found[-half:]))


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts))
