"""Checks whether a decision log on disk is as it was written, and shows its records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.decision_log import segments
from pdp.log_format import documents, old_lines
from pdp.log_format.frames import Head


class VerifyResult(NamedTuple):
    """The findings as lines of text, and whether every byte is as it was written."""

    lines: list[str]
    whole: bool


class _File(NamedTuple):
    """A file of the log: what it continues and where it ends (None if its first line is wrong)."""

    start: Head | None
    end: Head | None
    records: int
    gaps: list[tuple[int, int]]
    rest: bytes
    is_torn: bool
    is_old: bool


def verify(folder: Path) -> VerifyResult:
    """Follow the chain of a log from its oldest record to its newest; a sidecar may still be writing.

    Files that an earlier version left, which has a chain over records, are checked too.
    """
    files = {path: _read(path) for path in segments.paths(folder) if path.exists()}
    newest = max(files, default=None)
    faults: list[str] = []
    before: _File | None = None
    for path, found in files.items():
        fault = _fault(found, before, is_newest=path == newest)
        faults += [f"{quote(path.name)}: {fault}"] if fault else []
        before = found
    gaps = [f"{first} to {last} were dropped" for found in files.values() for first, last in found.gaps]
    count = sum(found.records for found in files.values())
    summary = f"{count} records, {'and not all as they were written' if faults else 'all as they were written'}"
    return VerifyResult([*gaps, *faults, summary], not faults)


def records(folder: Path) -> Iterator[bytes]:
    """The intact records as JSON, oldest first, each with its sequence."""
    for path in segments.paths(folder):
        data = path.read_bytes() if path.exists() else b""
        if old_lines.is_old(data, segments.MAGIC):
            for record in old_lines.read(data).records:
                yield _line(record.sequence, json.loads(record.document))
            continue
        for content in segments.contents(data):
            for sequence, one in enumerate(content.records, content.first_sequence):
                yield _line(sequence, documents.document(one))


def _line(sequence: int, document: documents.Document) -> bytes:
    return documents.text({"sequence": sequence, **document})


def _read(path: Path) -> _File:
    data = path.read_bytes()
    if old_lines.is_old(data, segments.MAGIC):
        old = old_lines.read(data)
        named = [json.loads(one.document)["gap"] for one in old.records if one.document.startswith(b'{"gap":')]
        gaps = [(gap["first_sequence"], gap["last_sequence"]) for gap in named]
        return _File(old.start, old.end, len(old.records), gaps, old.rest, old.is_torn, is_old=True)
    found = segments.scan(path)
    start, end = (found.segment.start, found.segment.end) if found.segment else (None, None)
    gaps = [(first, last) for _, first, last in found.gaps]
    return _File(start, end, found.records, gaps, found.rest, found.is_torn, is_old=False)


def _fault(found: _File, before: _File | None, *, is_newest: bool) -> str | None:
    if found.start is None or found.end is None:
        return "its first line is not what was written"
    if before is not None and not _continues(found.start, before, is_old=found.is_old):
        return f"does not continue record {before.end.sequence if before.end else 0}"
    if found.rest and not (is_newest and found.is_torn):
        return f"what follows record {found.end.sequence} is not what was written"
    return None


def _continues(start: Head, before: _File, *, is_old: bool) -> bool:
    if before.end is None:
        return False
    # An upgrade was interrupted: the file before is converted, and its hashes are others than this one continues.
    return start.sequence == before.end.sequence if is_old != before.is_old else start.hash == before.end.hash
