"""Verification of the activity log: its hash chain, and the checkpoints that signed its entries."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from registry_store.database.tables import Activity
from registry_store.journal.activity import GENESIS, digest


class Fault(NamedTuple):
    """The first entry at which the log was changed, and how that was detected."""

    sequence: int
    what: str

    def __str__(self) -> str:
        return f"entry {self.sequence} {self.what}"


class Signed(NamedTuple):
    """An entry that the checkpoint of time `at` signed, and the prefix of its hash."""

    sequence: int
    prefix: str
    at: str


@dataclass
class Chain:
    """Checks the log entry by entry; each step returns a fault or None.

    Continues after the entry `sequence` with `hash`; the default is the start of the log. `signed` yields the entries
    that checkpoints signed, in order, starting with the next entry.
    """

    sequence: int = 0
    hash: str = GENESIS
    signed: Iterator[Signed] = field(default_factory=lambda: iter(()))

    def take(self, entry: Activity) -> Fault | None:
        """Checks the next entry."""
        expected = self.sequence + 1
        if entry.sequence < expected:
            return Fault(entry.sequence, "was inserted before the first")
        if entry.sequence > expected:
            return Fault(expected, "is missing")
        mark = next(self.signed, None)
        if mark is not None and not str(entry.hash).startswith(mark.prefix):
            return Fault(
                expected, f"was replaced: its hash differs from the one that the checkpoint of {mark.at} signed"
            )
        if entry.previous_hash != self.hash:
            return Fault(expected, "was replaced or moved: it does not follow the entry before it")
        if not _holds(entry):
            return Fault(expected, "was edited or moved: its hash does not match its content")
        self.sequence, self.hash = entry.sequence, entry.hash
        return None

    def end(self, head: tuple[int, str] | None = None) -> Fault | None:
        """Checks the end of the log; `head` is the recorded end in the database, as sequence and hash."""
        mark = next(self.signed, None)
        if mark is not None:
            return Fault(
                mark.sequence, f"is missing: the log was truncated; the checkpoint of {mark.at} signed this entry"
            )
        if head is None or head == (self.sequence, self.hash):
            return None
        if head[0] > self.sequence:
            return Fault(self.sequence + 1, f"is missing: the log was truncated; it once ended at entry {head[0]}")
        if head[0] < self.sequence:
            return Fault(head[0] + 1, f"was inserted: the recorded end of the log is entry {head[0]}")
        return Fault(self.sequence, "was replaced: its hash differs from the recorded end of the log")


def _holds(entry: Activity) -> bool:
    try:
        return digest(entry) == entry.hash
    except (TypeError, ValueError, AttributeError):  # values of types that this program never writes
        return False
