"""Items with conditions, so that those that can hold for an action are found without a look at each."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pdp.core.index.constraints import Constraint, Item, Readers, Resolved, Test
from pdp.core.index.masks import MaskOf, mask_of_all
from pdp.core.index.parts import resolved
from pdp.core.index.tables import tables

MAX_SCANNED = 16
"""So many items are tested one after the other as fast as masks are combined."""
SCANNED_SHARE = 8
"""After one in so many items, all that follow are tested: to find a bit takes longer than a test."""
ITEMS_OF_VALUE = 32
"""If more values of an action lead to items than one for so many, all are tested: in order, each takes half as long."""

T = TypeVar("T", bound=Item)
Candidate: TypeAlias = tuple[Test, tuple[Test, ...], T]
"""An item after its first test and its others: most items fail the first one."""
Buckets: TypeAlias = dict[Any, tuple[Candidate[T], ...]]

_order = attrgetter("order")


class Several(NamedTuple, Generic[T]):
    """A table by a dimension with several values."""

    values_of: Callable[[Any, int], Collection[Any] | None]
    buckets: Buckets[T]
    items: tuple[Candidate[T], ...]

    def candidates(self, action: Any) -> Sequence[tuple[Candidate[T], ...]]:
        """The items that can hold: those of each value, or all if there are so many values that it is as fast."""
        values, buckets, items = self.values_of(action, len(self.items)), self.buckets, self.items
        if values is None:
            return (items,)
        if buckets.keys().isdisjoint(values):
            return ()
        named = buckets.keys() & values
        return [buckets[value] for value in named] if len(named) <= 1 + len(items) // ITEMS_OF_VALUE else (items,)


class Index(Generic[T]):
    """Items in the order of evaluation. `needs` returns the constraints of an item, and is called only where needed."""

    __slots__ = ("_in_several", "_in_tables", "_mask_of", "_scanned")

    def __init__(self, items: Iterable[T], needs: Callable[[T], Sequence[Constraint]], readers: Readers) -> None:
        ordered = sorted(items, key=_order)
        self._in_tables: tuple[tuple[Callable[[Any, int, Any], Any], Buckets[T]], ...] = ()
        self._in_several: tuple[Several[T], ...] = ()
        self._mask_of: MaskOf | None = None
        self._scanned = tuple(map(_candidate, ordered))
        if len(ordered) > MAX_SCANNED:
            self._build(resolved(map(needs, ordered)), readers)

    def first(self, action: Any, risk: int, local: Any) -> T | None:
        """The first item that holds."""
        if self._mask_of is None:
            found = _first_of(self._scanned, action, risk, local)
        else:
            found = self._first_possible(self._mask_of(action, risk, local), action, risk, local)
        for value_of, buckets in self._in_tables:
            if (value := value_of(action, risk, local)) in buckets:
                found = _earlier(found, _first_of(buckets[value], action, risk, local))
        for several in self._in_several:
            for bucket in several.candidates(action):
                found = _earlier(found, _first_of(bucket, action, risk, local))
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
                numbers = sorted({number for bucket in table.values() for number in bucket})
                several.append(Several(values_of, buckets, tuple(items[number] for number in numbers)))
        self._in_tables, self._in_several = tuple(single), tuple(several)
        self._scanned = tuple(items[number] for number in left)
        if len(left) > MAX_SCANNED:
            self._mask_of = mask_of_all([rows[number] for number in left], readers)

    def _first_possible(self, mask: int, action: Any, risk: int, local: Any) -> T | None:
        """The first item outside the tables that holds, of those that can: their bits are set."""
        items = self._scanned
        bits, left = len(items), len(items) // SCANNED_SHARE
        while mask:
            highest = mask.bit_length()
            if not left:
                return _first_of(items[bits - highest :], action, risk, local)
            found = _first_of((items[bits - highest],), action, risk, local)
            if found is not None:
                return found
            mask ^= 1 << highest - 1
            left -= 1
        return None

    def _every(self, action: Any, risk: int, local: Any) -> Iterator[T]:
        """Every item that holds, in no order; one that several values of the action lead to comes more than once."""
        buckets: list[Iterable[Candidate[T]]] = [self._possible(action, risk, local)]
        buckets += [some.get(value_of(action, risk, local), ()) for value_of, some in self._in_tables]
        buckets += [bucket for some in self._in_several for bucket in some.candidates(action)]
        for test, others, item in chain.from_iterable(buckets):
            if test(action, risk, local) and all(other(action, risk, local) for other in others):
                yield item

    def _possible(self, action: Any, risk: int, local: Any) -> Iterator[Candidate[T]]:
        if self._mask_of is None:
            yield from self._scanned
            return
        mask, bits = self._mask_of(action, risk, local), len(self._scanned)
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
