"""Items with conditions, so that those that can hold for an action are found without a look at each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar

from pdp.core.index.constraints import Constraint, Item, Readers, Test
from pdp.core.index.masks import MaskOf, masks
from pdp.core.index.parts import Resolved, resolved
from pdp.core.index.tables import tables

MAX_SCANNED = 16
"""So many items are tested one after the other as fast as masks are combined."""
SCANNED_SHARE = 8
"""After one in so many items, all that follow are tested: to find a bit takes longer than a test."""

T = TypeVar("T", bound=Item)
Candidate: TypeAlias = tuple[Test, tuple[Test, ...], T]
"""An item after its first test and its others: most items fail the first one."""
Buckets: TypeAlias = dict[Any, tuple[Candidate[T], ...]]

_order = attrgetter("order")


class Index(Generic[T]):
    """Items in the order of evaluation. `needs` returns the constraints of an item, and is called only where needed."""

    __slots__ = ("_in_several", "_in_tables", "_masks", "_scanned")

    def __init__(self, items: Iterable[T], needs: Callable[[T], Sequence[Constraint]], readers: Readers) -> None:
        ordered = sorted(items, key=_order)
        self._in_tables: tuple[tuple[Callable[[Any, int, Any], Any], Buckets[T]], ...] = ()
        self._in_several: tuple[tuple[Callable[[Any], Iterable[Any]], Buckets[T]], ...] = ()
        self._masks: tuple[MaskOf, ...] = ()
        self._scanned = tuple(map(_candidate, ordered))
        if len(ordered) > MAX_SCANNED:
            self._build(resolved(map(needs, ordered)), readers)

    def first(self, action: Any, risk: int, local: Any) -> T | None:
        """The first item that holds."""
        if self._masks:
            found = self._first_possible(action, risk, local)
        else:
            found = _first_of(self._scanned, action, risk, local)
        for value_of, buckets in self._in_tables:
            if (value := value_of(action, risk, local)) in buckets:
                found = _earlier(found, _first_of(buckets[value], action, risk, local))
        for values_of, buckets in self._in_several:
            for value in values_of(action):
                if value in buckets:
                    found = _earlier(found, _first_of(buckets[value], action, risk, local))
        return found

    def all(self, action: Any, risk: int, local: Any) -> tuple[T, ...]:
        """Every item that holds, in order."""
        found = {id(item): item for item in self._every(action, risk, local)}
        return tuple(sorted(found.values(), key=_order))

    def _build(self, rows: list[list[Resolved]], readers: Readers) -> None:
        items = self._scanned
        found, left = tables(rows)
        single, several = [], []
        for dimension, table in found.items():
            buckets = {value: tuple(items[number] for number in numbers) for value, numbers in table.items()}
            values_of = readers.several(dimension)
            if values_of is None:
                single.append((readers.one(dimension), buckets))
            else:
                several.append((values_of, buckets))
        self._in_tables, self._in_several = tuple(single), tuple(several)
        self._scanned = tuple(items[number] for number in left)
        if len(left) > MAX_SCANNED:
            self._masks = masks([rows[number] for number in left], readers)

    def _first_possible(self, action: Any, risk: int, local: Any) -> T | None:
        """The first item outside the tables that holds."""
        items = self._scanned
        mask, bits, left = self._mask(action, risk, local), len(items), len(items) // SCANNED_SHARE
        while mask:
            highest = mask.bit_length()
            if not left:
                return _first_of(items[bits - highest :], action, risk, local)
            found = _first_of(items[bits - highest : bits - highest + 1], action, risk, local)
            if found is not None:
                return found
            mask ^= 1 << highest - 1
            left -= 1
        return None

    def _mask(self, action: Any, risk: int, local: Any) -> int:
        """The bits of the items outside the tables that can hold."""
        first_of, *others_of = self._masks
        mask = first_of(action, risk, local)
        for mask_of in others_of:
            if not mask:
                break
            mask &= mask_of(action, risk, local)
        return mask

    def _every(self, action: Any, risk: int, local: Any) -> Iterator[T]:
        """Every item that holds, in no order; one that several values of the action lead to comes more than once."""
        buckets: list[Iterable[Candidate[T]]] = [self._possible(action, risk, local) if self._masks else self._scanned]
        buckets += [some.get(value_of(action, risk, local), ()) for value_of, some in self._in_tables]
        buckets += [some.get(value, ()) for values_of, some in self._in_several for value in values_of(action)]
        for test, others, item in chain.from_iterable(buckets):
            if test(action, risk, local) and all(other(action, risk, local) for other in others):
                yield item

    def _possible(self, action: Any, risk: int, local: Any) -> Iterator[Candidate[T]]:
        mask, bits = self._mask(action, risk, local), len(self._scanned)
        while mask:
            highest = mask.bit_length()
            yield self._scanned[bits - highest]
            mask ^= 1 << highest - 1


def _candidate(item: T) -> Candidate[T]:
    return (item.tests[0], item.tests[1:], item) if item.tests else (_always, (), item)


def _always(action: Any, risk: int, local: Any) -> bool:
    return True


def _first_of(candidates: tuple[Candidate[T], ...], action: Any, risk: int, local: Any) -> T | None:
    for test, others, item in candidates:
        if test(action, risk, local):
            for other in others:
                if not other(action, risk, local):
                    break
            else:
                return item
    return None


def _earlier(one: T | None, other: T | None) -> T | None:
    if one is None or (other is not None and other.order < one.order):
        return other
    return one
