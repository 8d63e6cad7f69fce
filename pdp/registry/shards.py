"""A mapping of which a changed copy costs what changed, not what it holds."""

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar, overload

SHARDS = 1024
"""A power of two. A change copies the parts that it touches: of 100,000 entries some hundred each."""

_LAST = SHARDS - 1

V = TypeVar("V")
D = TypeVar("D")


class Shards(Mapping[str, V]):
    """Immutable: entries by the hash of their key in dictionaries that copies share."""

    __slots__ = ("_length", "_parts")

    def __init__(self) -> None:
        nothing: dict[str, V] = {}
        self._parts = (nothing,) * SHARDS
        self._length = 0

    @overload
    def get(self, key: str, /) -> V | None: ...
    @overload
    def get(self, key: str, /, default: D) -> V | D: ...
    def get(self, key: str, /, default: D | None = None) -> V | D | None:
        """The value, or `default`; inherited, it would raise and catch an exception for what is not there."""
        return self._parts[hash(key) & _LAST].get(key, default)

    def __getitem__(self, key: str) -> V:
        return self._parts[hash(key) & _LAST][key]

    def __contains__(self, key: object) -> bool:
        return key in self._parts[hash(key) & _LAST]

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return self._length

    def changed(self, values: Mapping[str, V], removed: Collection[str] = ()) -> "Shards[V]":
        """A copy with these values and without these keys, which are others; the same object if there are none."""
        if not values and not removed:
            return self
        parts = list(self._parts)
        copied: set[int] = set()
        length = self._length
        for key in (*values, *removed):
            number = hash(key) & _LAST
            if number not in copied:
                copied.add(number)
                parts[number] = parts[number].copy()
            part = parts[number]
            length -= len(part)
            if key in values:
                part[key] = values[key]
            else:
                part.pop(key, None)
            length += len(part)
        other: Shards[V] = Shards.__new__(Shards)
        other._parts, other._length = tuple(parts), length
        return other
