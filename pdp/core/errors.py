"""What is wrong with a value from outside."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_PROBLEMS = 100
MAX_CHARACTERS = 256
"""Of a problem's path, and of its message."""
MAX_SUMMARY_CHARACTERS = 500
"""Of an error's text; what does not fit is counted. One problem always fits."""


class Problem(NamedTuple):
    """One fault: `path` as in `conditions.hour_after` or `tags[3]`, `message` in lower case."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Problems:
    """Collects problems: keeps the first 100 different ones, each of bounded text, and counts the rest.

    Iterating gives those that are kept, and then one that says how many more there are at least.
    """

    __slots__ = ("_kept", "_more")

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._kept: dict[Problem, None] = {}
        self._more = 0
        self.extend(problems)

    @property
    def full(self) -> bool:
        """Whether there was one too many: a reader of many values stops here, which bounds the time it takes."""
        return self._more > 0

    def append(self, problem: Problem) -> None:
        """One more; what is here already is not counted again."""
        bounded = _bounded(problem)
        if bounded in self._kept:
            return
        if len(self._kept) < MAX_PROBLEMS:
            self._kept[bounded] = None
        else:
            self._more += 1

    def extend(self, problems: Iterable[Problem]) -> None:
        """Several more."""
        for problem in problems:
            self.append(problem)

    def count(self, number: int) -> None:
        """So many more that are not worth making."""
        self._more += number

    def raise_if_any(self) -> None:
        """Raise `InvalidRecordError` with what was found, if anything was."""
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


def bounded_text(text: str, most: int = MAX_CHARACTERS) -> str:
    """The text cut to `most` characters, and half of a surrogate pair, which no answer can hold, as an escape."""
    return _cut(_cut(text, most).encode(errors="backslashreplace").decode(), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _summary(problems: tuple[Problem, ...], count: int) -> str:
    text = ""
    for number, problem in enumerate(problems):
        if number and len(text) + len(problem.path) + len(problem.message) > MAX_SUMMARY_CHARACTERS:
            return f"{text}; and {count - number:,} more"
        text = f"{text}; {problem}" if number else str(problem)
    return text
