"""What a set of conditions needs of an action: necessary constraints, from which tables and masks are made.

A constraint may admit more than the condition that it comes from, and never less: the tests of a candidate are exact.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NamedTuple, Protocol, TypeAlias

Test: TypeAlias = Callable[[Any, int, Any], bool]
"""(action, effective risk, local time) → whether a condition holds."""


class Item(Protocol):
    """A set of conditions, which holds if every test does; items are evaluated by ascending `order`."""

    order: Any
    tests: tuple[Test, ...]


class Dimension(NamedTuple):
    """A value of actions: a field, or a `detail` of it.

    A number n means the first n characters of a text, and -n its last n; a text means one attribute.
    """

    field: str
    detail: str | int = ""


class Among(NamedTuple):
    """The value is one of `values`; of a dimension with several values, at least one is."""

    dimension: Dimension
    values: frozenset[Any]


class Outside(NamedTuple):
    """The value is none of `values`."""

    dimension: Dimension
    values: frozenset[Any]


class Partly(NamedTuple):
    """The text of a field starts with one of `parts`, or ends with one if `at_end`; or it is one of `others`."""

    field: str
    parts: frozenset[str]
    others: frozenset[str] = frozenset()
    at_end: bool = False


class Between(NamedTuple):
    """The number is greater than `above` and less than `below`; not given, it may be `missing`."""

    dimension: Dimension
    above: float = -inf
    below: float = inf
    missing: bool = False


Constraint: TypeAlias = Among | Outside | Partly | Between


class Readers(Protocol):
    """How the values of a dimension are read."""

    def one(self, dimension: Dimension) -> Callable[[Any, int, Any], Any]:
        """(action, risk, local time) → the value, hashable; of a number None if it is not given."""

    def several(self, dimension: Dimension) -> Callable[[Any], Iterable[Any]] | None:
        """action → its values, if the dimension has several; else None."""
