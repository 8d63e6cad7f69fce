"""What a set of conditions needs of an action: necessary constraints, from which tables and masks are made.

A constraint may admit more than the condition that it comes from, and never less: the tests of a candidate are exact.
"""

from collections.abc import Callable, Collection
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

    A number n means the first n characters of a text, and -n its last n; `inside`, every n characters in a row. A text
    means one attribute.
    """

    field: str
    detail: str | int = ""
    inside: bool = False


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


class Containing(NamedTuple):
    """The text of a field contains each of `parts`; or it is one of `others`."""

    field: str
    parts: tuple[str, ...]
    others: frozenset[str] = frozenset()


class Between(NamedTuple):
    """The number is greater than `above` and less than `below`; not given, it may be `missing`."""

    dimension: Dimension
    above: float = -inf
    below: float = inf
    missing: bool = False


Resolved: TypeAlias = Among | Outside | Between
"""What tables and masks are made from."""
Constraint: TypeAlias = Resolved | Partly | Containing


class Readers(Protocol):
    """How the values of a dimension are read."""

    def one(self, dimension: Dimension) -> Callable[[Any, int, Any], Any]:
        """(action, risk, local time) → the value, hashable; of a number None if it is not given."""

    def several(self, dimension: Dimension) -> Callable[[Any, int], Collection[Any] | None] | None:
        """(action, number of items) → its values, or None if it takes longer to look them up than to test the items.

        None for a dimension with one value.
        """
