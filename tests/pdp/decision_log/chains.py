"""A simple store for a decision log: it keeps each sequence once and checks the chain."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pdp.decision_log.log import DecisionLog
from pdp.decision_log.segments import Record

WALL = 1_795_176_000.0


class Kept:
    """The records that a store has of one sidecar's log."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.breaks = 0

    @property
    def sequence(self) -> int:
        """The newest sequence that is kept."""
        return self.records[-1].sequence if self.records else 0

    def take(self, records: Iterable[Record]) -> int:
        """Keeps what is new, and answers with the newest sequence."""
        for one in records:
            if one.sequence > self.sequence:
                hashed = hashlib.sha256(one.previous_hash + one.sequence.to_bytes(8, "big") + one.document).digest()
                before = self.records[-1].hash if self.records else bytes(32)
                follows = one.sequence > self.sequence + 1 or one.previous_hash == before
                self.breaks += one.hash != hashed or not follows
                self.records.append(one)
        return self.sequence

    def documents(self) -> list[bytes]:
        """The decisions, without the gap records."""
        return [record.document for record in self.records if "gap" not in json.loads(record.document)]

    def gaps(self) -> list[tuple[int, int]]:
        """The first and last sequence of every gap record."""
        gaps = [json.loads(record.document).get("gap") for record in self.records]
        return [(gap["first_sequence"], gap["last_sequence"]) for gap in gaps if gap]

    def missing(self) -> set[int]:
        """Every sequence that a gap names and that never came."""
        named = {sequence for first, last in self.gaps() for sequence in range(first, last + 1)}
        return named - {record.sequence for record in self.records}


def opened(folder: Path, max_bytes: int = 1 << 20, **how: Any) -> DecisionLog:
    """The log in `folder`, with a fixed clock."""
    return DecisionLog(folder / "decisions", max_bytes, lambda: WALL, **how)


def document(number: int, size: int = 0) -> bytes:
    """The record of a decision."""
    return json.dumps({"decision_id": number, "text": "ä" * size}, ensure_ascii=False).encode()


def append(log: DecisionLog, items: Iterable[bytes | int]) -> list[Record]:
    """Puts items on the disk; the records."""
    return [record for records in log.append(deque(items)) for record in records]


def ship(log: DecisionLog, store: Kept, max_records: int = 1000) -> None:
    """Sends everything."""
    while records := log.after(log.kept, max_records, 1 << 20):
        log.keep(store.take(records))


def files(folder: Path, pattern: str = "*.log") -> Sequence[Path]:
    """The files of a log, oldest first."""
    return sorted((folder / "decisions").glob(pattern))
