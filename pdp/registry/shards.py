"""A mapping of which a changed copy costs what changed, not what it holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar, overload

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

    def entries(self) -> Iterator[tuple[str, V]]:
        """Every key with its value, without a look-up for each."""
        for part in self._parts:
            yield from part.items()

    def parts(self) -> tuple[object, ...]:
        """The dictionaries that it is made of."""
        return self._parts

    def draft(self) -> "Draft[V]":
        """A copy to be changed."""
        return Draft(self._parts, self._length)

    @classmethod
    def _of(cls, parts: tuple[dict[str, V], ...], length: int) -> "Shards[V]":
        shards: Shards[V] = cls.__new__(cls)
        shards._parts, shards._length = parts, length
        return shards


class Draft(Generic[V]):
    """A changed copy in the making: it copies a part when it first changes an entry there."""

    __slots__ = ("_copied", "_length", "_parts")

    def __init__(self, parts: Sequence[dict[str, V]], length: int) -> None:
        self._parts = list(parts)
        self._length = length
        self._copied: set[int] = set()

    def get(self, key: str) -> V | None:
        """The value; None if there is none."""
        return self._parts[hash(key) & _LAST].get(key)

    def __len__(self) -> int:
        return self._length

    def keys(self) -> Iterator[str]:
        """Every key that is there now, also while values are replaced."""
        for number in range(SHARDS):
            yield from tuple(self._parts[number])

    def values(self) -> Iterator[V]:
        """Every value."""
        for part in self._parts:
            yield from part.values()

    def put(self, key: str, value: V) -> None:
        """Add or replace an entry."""
        part = self._own(key)
        self._length += key not in part
        part[key] = value

    def remove(self, key: str) -> None:
        """Take an entry out, if it is there."""
        part = self._own(key)
        self._length -= key in part
        part.pop(key, None)

    def done(self) -> Shards[V]:
        """The copy. The draft must not be used any more."""
        return Shards._of(tuple(self._parts), self._length)

    def _own(self, key: str) -> dict[str, V]:
        number = hash(key) & _LAST
        if number not in self._copied:
            self._copied.add(number)
            self._parts[number] = self._parts[number].copy()
        return self._parts[number]
