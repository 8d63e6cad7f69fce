"""Whether the activity log is what was written: its chain of hashes, and what checkpoints signed of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from registry_store.database.tables import Activity
from registry_store.journal.activity import GENESIS, digest


class Fault(NamedTuple):
    """The first entry at which the log is not what was written, and how that shows."""

    sequence: int
    what: str

    def __str__(self) -> str:
        return f"entry {self.sequence} {self.what}"


class Signed(NamedTuple):
    """What the checkpoint made at `at` says of an entry: how its hash begins."""

    sequence: int
    prefix: str
    at: str


@dataclass
class Chain:
    """Follows the log from entry to entry; each step gives the fault that it finds, or None.

    It goes on after entry `sequence` with `hash`, from the log's beginning unless told. `signed` are the entries that
    checkpoints know, in order, from the next one on.
    """

    sequence: int = 0
    hash: str = GENESIS
    signed: Iterator[Signed] = field(default_factory=lambda: iter(()))

    def take(self, entry: Activity) -> Fault | None:
        """The next entry."""
        expected = self.sequence + 1
        if entry.sequence < expected:
            return Fault(entry.sequence, "was put in before the first")
        if entry.sequence > expected:
            return Fault(expected, "is missing")
        mark = next(self.signed, None)
        if mark is not None and not str(entry.hash).startswith(mark.prefix):
            return Fault(expected, f"was replaced: its hash is not the one that the checkpoint of {mark.at} signed")
        if entry.previous_hash != self.hash:
            return Fault(expected, "was replaced or moved: it does not follow the entry before it")
        if not _holds(entry):
            return Fault(expected, "was edited or moved: its hash is not that of its content")
        self.sequence, self.hash = entry.sequence, entry.hash
        return None

    def end(self, head: tuple[int, str] | None = None) -> Fault | None:
        """There are no more; `head` is where the database says that the log ends, as sequence and hash."""
        mark = next(self.signed, None)
        if mark is not None:
            return Fault(mark.sequence, f"is missing: the log was cut; the checkpoint of {mark.at} signed this entry")
        if head is None or head == (self.sequence, self.hash):
            return None
        if head[0] > self.sequence:
            return Fault(self.sequence + 1, f"is missing: the log was cut; it once reached entry {head[0]}")
        if head[0] < self.sequence:
            return Fault(head[0] + 1, f"was put in: the database's own note ends the log at entry {head[0]}")
        return Fault(self.sequence, "was replaced: the database's own note of its hash is another")


def _holds(entry: Activity) -> bool:
    try:
        return digest(entry) == entry.hash
    except (TypeError, ValueError, AttributeError):  # values of types that no writer of this program makes
        return False
