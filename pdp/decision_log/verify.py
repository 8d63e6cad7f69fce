"""Checks whether a decision log on disk is as it was written."""

from pathlib import Path
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.decision_log import segments
from pdp.decision_log.segments import Head, ScanResult


class VerifyResult(NamedTuple):
    """The findings as lines of text, and whether every byte is as it was written."""

    lines: list[str]
    whole: bool


def verify(folder: Path) -> VerifyResult:
    """Follow the chain of a log from its oldest record to its newest; a sidecar may still be writing."""
    files = {path: segments.scan(path) for path in segments.paths(folder) if path.exists()}
    newest = max(files, default=None)
    faults: list[str] = []
    before: Head | None = None
    for path, found in files.items():
        fault = _fault(found, before, is_newest=path == newest)
        faults += [f"{quote(path.name)}: {fault}"] if fault else []
        before = found.segment.end if found.segment else Head(0, b"")
    gaps = [f"{first} to {last} were dropped" for found in files.values() for _, first, last in found.gaps]
    count = sum(found.records for found in files.values())
    summary = f"{count} records, {'and not all as they were written' if faults else 'all as they were written'}"
    return VerifyResult([*gaps, *faults, summary], not faults)


def _fault(found: ScanResult, before: Head | None, *, is_newest: bool) -> str | None:
    if found.segment is None:
        return "its first line is not what was written"
    if before is not None and before.hash != found.segment.start.hash:
        return f"does not continue record {before.sequence}"
    if b"\n" in found.rest or (found.rest and not is_newest):
        return f"what follows record {found.segment.end.sequence} is not what was written"
    return None
