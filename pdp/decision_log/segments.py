"""The files of the decision log: each is a part of one hash chain, with one record per line.

The first line holds a magic word, and the sequence and hash that the file continues. Each other line holds a record's
sequence, its hash, and its document, which is JSON without line breaks.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAGIC = b"pdp-decisions-1"
GAP = b'{"gap":'
MAX_FILE_BYTES = 1 << 30
READ_BYTES = 2 << 20
MAX_SKIPPED = 1 << 20
"""A number in a damaged line is ignored if it is further than this from the last one."""


class Head(NamedTuple):
    """The end of a chain: the newest used sequence, and the hash of the newest record."""

    sequence: int = 0
    hash: bytes = bytes(32)


class Record(NamedTuple):
    """One record in the chain; `hash` covers the hash of the record before it, the sequence and the document."""

    sequence: int
    document: bytes
    previous_hash: bytes
    hash: bytes

    @property
    def head(self) -> Head:
        """The end of the chain after this record."""
        return Head(self.sequence, self.hash)


class DamagedError(ValueError):
    """The file differs from what was written; the text says how."""


class Cursor(NamedTuple):
    """A place in a file between two records."""

    head: Head
    offset: int


@dataclass(slots=True)
class Segment:
    """One file: the end of the chain before it and after it, the number of valid bytes, the offset of the first record,
    and whether records may be appended.
    """

    path: Path
    start: Head
    end: Head
    size: int
    first: int
    is_open: bool = True

    @classmethod
    def create(cls, folder: Path, start: Head) -> "Segment":
        """A new, durable file for the records after `start`."""
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name(start)
        header = b"%s %d %s\n" % (MAGIC, start.sequence, start.hash.hex().encode())
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            _write(file, header, 0)
        sync_folder(folder)
        return cls(path, start, start, len(header), len(header))

    @property
    def is_empty(self) -> bool:
        """Whether it holds no record."""
        return self.end == self.start

    @property
    def beginning(self) -> Cursor:
        """The place before the first record."""
        return Cursor(self.start, self.first)

    def write(self, records: list[Record]) -> None:
        """Append records durably, or raise `OSError` and keep none of them."""
        data = b"".join([b"%d %s %s\n" % (one.sequence, one.hash.hex().encode(), one.document) for one in records])
        with _existing(self.path, os.O_WRONLY) as file:
            if os.fstat(file).st_size < self.size:
                raise DamagedError("it is shorter than what was written")
            os.ftruncate(file, self.size)  # removes what a failed write left behind
            _write(file, data, self.size)
        self.size += len(data)
        self.end = records[-1].head

    def read(self, cursor: Cursor) -> Iterator[tuple[Record, Cursor]]:
        """The next records after `cursor`, up to 2 MiB, each with the cursor after it."""
        wanted = min(READ_BYTES, self.size - cursor.offset)
        with _existing(self.path, os.O_RDONLY) as file:
            data = os.pread(file, wanted, cursor.offset)
        whole = data[: data.rfind(b"\n") + 1]
        if len(data) < wanted or not whole:
            raise DamagedError("it is shorter than what was written")
        return parsed(whole, cursor)


class Gap(NamedTuple):
    """The content of the gap record at `sequence`: the records `first` to `last` are lost."""

    sequence: int
    first: int
    last: int


class ScanResult(NamedTuple):
    """The content of a file: a segment (None if the first line is wrong), the number of records, the gaps that they
    name, and the bytes after the valid part.
    """

    segment: Segment | None
    records: int
    gaps: list[Gap]
    rest: bytes

    def taken(self, sequence: int) -> int:
        """The newest sequence that the invalid rest can have used, after `sequence`."""
        for line in self.rest.removesuffix(b"\n").split(b"\n") if self.rest else ():
            number = re.match(rb"[0-9]{1,18} ", line)
            claimed = int(number[0]) if number else 0
            sequence = claimed if sequence < claimed <= sequence + MAX_SKIPPED else sequence + 1
        return sequence


def name(start: Head) -> str:
    """The name of the file for the records after `start`; names sort in the order of the records."""
    return f"{start.sequence + 1:020}.log"


def paths(folder: Path) -> list[Path]:
    """The files of a log, oldest first."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdecimal() and len(path.stem) == 20)


def scan(path: Path, max_bytes: int = MAX_FILE_BYTES) -> ScanResult:
    """The valid part of the first `max_bytes` of the file at `path`, up to the first wrong byte."""
    with path.open("rb") as file:
        data = file.read(max_bytes)
    first = data.find(b"\n") + 1
    try:
        start = _start(data[:first])
    except DamagedError:
        return ScanResult(None, 0, [], data)
    segment, records = Segment(path, start, start, first, first), 0
    named: list[Gap] = []
    with suppress(DamagedError):
        for record, cursor in parsed(data[first:], segment.beginning):
            segment.end, segment.size = record.head, cursor.offset
            records += 1
            named += gaps([record])
    return ScanResult(segment, records, named, data[segment.size :])


def parsed(data: bytes, cursor: Cursor) -> Iterator[tuple[Record, Cursor]]:
    """The records in `data` after `cursor`; `DamagedError` at the first line that breaks the chain or has no end."""
    head, offset = cursor
    *whole, torn = data.split(b"\n")
    for line in whole:
        record = _record(line, head)
        head, offset = record.head, offset + len(line) + 1
        yield record, Cursor(head, offset)
    if torn:
        raise DamagedError(f"what follows record {head.sequence} has no end")


def gaps(records: Iterable[Record]) -> list[Gap]:
    """The gaps that these records name."""
    return [_gap(record) for record in records if record.document.startswith(GAP)]


def sealed(head: Head, sequence: int, document: bytes) -> Record:
    """The record that follows `head`."""
    digest = hashlib.sha256(head.hash)
    digest.update(sequence.to_bytes(8, "big"))
    digest.update(document)
    return Record(sequence, document, head.hash, digest.digest())


def copy_aside(path: Path) -> Path:
    """Keep a copy of the damaged file at `path` for people to look at."""
    aside = path.with_suffix(".damaged")
    shutil.copyfile(path, aside)
    aside.chmod(0o600)
    return aside


def cut(path: Path, size: int) -> None:
    """Truncate the file at `path` to `size` bytes; delete it if that is 0."""
    if not size:
        path.unlink(missing_ok=True)
    elif path.exists():
        with _opened(path, os.O_WRONLY) as file:
            os.ftruncate(file, size)
            os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Make the list of files in `folder` durable."""
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as opened:
        os.fsync(opened)


def _start(line: bytes) -> Head:
    magic, _, rest = line.rstrip(b"\n").partition(b" ")
    try:
        sequence, digest = rest.split(b" ")
        start = Head(int(sequence), bytes.fromhex(digest.decode()))
    except ValueError:
        raise DamagedError("its first line is not what was written") from None
    if magic != MAGIC or start.sequence < 0 or len(start.hash) != 32:
        raise DamagedError("its first line is not what was written")
    return start


def _record(line: bytes, head: Head) -> Record:
    try:
        number, digest, document = line.split(b" ", 2)
        record = sealed(head, int(number), document)
    except (ValueError, OverflowError):
        raise DamagedError(f"what follows record {head.sequence} is not a record") from None
    if record.sequence <= head.sequence or record.hash.hex().encode() != digest:
        raise DamagedError(f"what follows record {head.sequence} does not continue the chain")
    return record


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
    os.fdatasync(file)


def _gap(record: Record) -> Gap:
    content = json.loads(record.document)["gap"]
    return Gap(record.sequence, content["first_sequence"], content["last_sequence"])


def _existing(path: Path, flags: int) -> AbstractContextManager[int]:
    if not path.exists():
        raise DamagedError("it does not exist any more")
    return _opened(path, flags)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)
