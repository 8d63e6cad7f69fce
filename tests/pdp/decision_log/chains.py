"""A simple store for a decision log: it keeps each sequence once and checks the chain."""

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pdp.decision_log.log import DecisionLog
from pdp.log_format import documents
from pdp.log_format.batches import Batch
from pdp.log_format.batches import opened as opened_batch
from pdp.v1 import decision_pb2, log_pb2

WALL = 1_795_176_000.0


class Stored(NamedTuple):
    """A record under its sequence."""

    sequence: int
    record: log_pb2.LogRecord


class Kept:
    """The records that a store has of one sidecar's log."""

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.breaks = 0
        self._hash = bytes(32)

    @property
    def sequence(self) -> int:
        """The newest sequence that is kept."""
        return self.records[-1].sequence if self.records else 0

    def take(self, batches: Iterable[Batch]) -> int:
        """Keeps what is new, and answers with the newest sequence."""
        for one in batches:
            content = opened_batch(one.content)
            last = content.first_sequence + len(content.records) - 1
            if last > self.sequence:
                hashed = hashlib.sha256(one.previous_hash + one.content).digest()
                follows = content.first_sequence > self.sequence + 1 or one.previous_hash == self._hash
                self.breaks += one.hash != hashed or not follows
                numbered = enumerate(content.records, content.first_sequence)
                self.records += [Stored(number, record) for number, record in numbered if number > self.sequence]
                self._hash = one.hash
        return self.sequence

    def documents(self) -> list[documents.Document]:
        """The decisions as JSON, without the gap records."""
        return [documents.document(one.record) for one in self.records if not one.record.HasField("gap")]

    def gaps(self) -> list[tuple[int, int]]:
        """The first and last sequence of every gap record."""
        gaps = [one.record.gap for one in self.records if one.record.HasField("gap")]
        return [(gap.first_sequence, gap.last_sequence) for gap in gaps]

    def missing(self) -> set[int]:
        """Every sequence that a gap names and that never came."""
        named = {sequence for first, last in self.gaps() for sequence in range(first, last + 1)}
        return named - {record.sequence for record in self.records}


def opened(folder: Path, max_bytes: int = 1 << 20, **how: Any) -> DecisionLog:
    """The log in `folder`, with a fixed clock."""
    return DecisionLog(folder / "decisions", max_bytes, lambda: WALL, **how)


def record(number: int, size: int = 0) -> bytes:
    """The record of a decision, of 100 bytes and two for each of `size`."""
    answer = decision_pb2.EvaluateResponse(outcome=1, reason=15, source=1, decision_id=str(number))
    answer.message = "ä" * size + "x" * 75
    return log_pb2.LogRecord(decision=log_pb2.LoggedDecision(answer=answer)).SerializeToString()


def numbers(store: Kept) -> list[int]:
    """The numbers of the decisions that a store has."""
    return [int(one["decision_id"]) for one in store.documents()]


def append(log: DecisionLog, items: Iterable[bytes | int]) -> list[Batch]:
    """Puts items on the disk; the batches."""
    return [batch for batches in log.append(deque(items)) for batch in batches]


def append_each(log: DecisionLog, items: Iterable[bytes | int]) -> None:
    """Puts items on the disk, each in a batch of its own."""
    for item in items:
        append(log, [item])


def ship(log: DecisionLog, store: Kept, max_records: int = 1000) -> None:
    """Sends everything."""
    while batches := log.after(log.kept, max_records, 1 << 20):
        log.keep(store.take(batches))


def files(folder: Path, pattern: str = "*.log") -> Sequence[Path]:
    """The files of a log, oldest first."""
    return sorted((folder / "decisions").glob(pattern))
