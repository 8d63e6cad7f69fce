"""Problems in untrusted input, and the errors that carry them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_PROBLEMS = 100
MAX_CHARACTERS = 256
"""Limit for a problem's path, and for its message."""
MAX_SUMMARY_CHARACTERS = 500
"""Limit for an error's text; problems that do not fit are counted. One problem always fits."""


class Problem(NamedTuple):
    """One fault: `path` as in `conditions.hour_after` or `tags[3]`, `message` in lower case."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Problems:
    """Collects problems: keeps the first 100 distinct ones with bounded text, and counts the rest.

    Iterating yields the kept problems, and then one that says how many more there are at least.
    """

    __slots__ = ("_kept", "_more")

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._kept: dict[Problem, None] = {}
        self._more = 0
        self.extend(problems)

    @property
    def full(self) -> bool:
        """Whether the limit is exceeded; a reader of many values then stops, which bounds its time."""
        return self._more > 0

    def append(self, problem: Problem) -> None:
        """Add a problem; a duplicate is not counted."""
        bounded = _bounded(problem)
        if bounded in self._kept:
            return
        if len(self._kept) < MAX_PROBLEMS:
            self._kept[bounded] = None
        else:
            self._more += 1

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add several problems."""
        for problem in problems:
            self.append(problem)

    def count(self, number: int) -> None:
        """Count this many further problems without creating them."""
        self._more += number

    def raise_if_any(self) -> None:
        """Raise `InvalidRecordError` with the problems, if there are any."""
        if self:
            raise InvalidRecordError(self)

    def __len__(self) -> int:
        return len(self._kept) + self._more

    def __iter__(self) -> Iterator[Problem]:
        yield from self._kept
        if self._more:
            yield Problem("", f"and at least {self._more:,} more")


class InvalidRecordError(ValueError):
    """A record from outside breaks the contract; holds every problem found, up to a bound, not just the first.

    `count` is how many were found.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = problems if isinstance(problems, Problems) else Problems(problems)
        self.problems = tuple(found)
        self.count = len(found)
        super().__init__(_summary(self.problems, self.count))


class InvalidActionError(ValueError):
    """A request to decide is malformed; each path is a field's name in the request, as `action.risk_score`."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = tuple(map(_bounded, problems))
        super().__init__(_summary(self.problems, len(problems)))


def _bounded(problem: Problem) -> Problem:
    path, message = problem
    if len(path) <= MAX_CHARACTERS and len(message) <= MAX_CHARACTERS and path.isascii() and message.isascii():
        return problem
    return Problem(bounded_text(path), bounded_text(message))


def bounded_text(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """The text cut to `max_characters`; half of a surrogate pair, which UTF-8 cannot encode, is escaped."""
    return _cut(_cut(text, max_characters).encode(errors="backslashreplace").decode(), max_characters)


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _summary(problems: tuple[Problem, ...], count: int) -> str:
    text = ""
    for number, problem in enumerate(problems):
        if number and len(text) + len(problem.path) + len(problem.message) > MAX_SUMMARY_CHARACTERS:
            return f"{text}; and {count - number:,} more"
        text = f"{text}; {problem}" if number else str(problem)
    return text
