"""What is wrong with a value from outside."""

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One fault: `path` as in `conditions.hour_after` or `tags[3]`, `message` in lower case."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidRecord(ValueError):  # noqa: N818 - it is the record that is invalid, and the name says so
    """A record from outside breaks the contract; holds every problem found, not just the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class InvalidAction(ValueError):  # noqa: N818 - likewise
    """A request to decide is malformed; each path is a field's name in the request, as `action.risk_score`."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))
