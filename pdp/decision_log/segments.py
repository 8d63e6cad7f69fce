"""The files of the decision log: each a part of one hash chain, a record a line.

The first line: a magic word, and the sequence and hash after which the file goes on. Every other: a record's sequence,
its hash, and its document, which is JSON and so has no line break in it.
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
"""A number in a damaged line that is further from the last one is not believed."""


class Head(NamedTuple):
    """Where a chain has come to: the newest sequence that is taken, and the hash of the newest record."""

    sequence: int = 0
    hash: bytes = bytes(32)


class Record(NamedTuple):
    """One record in the chain; `hash` is over the hash of the one before, the sequence and the document."""

    sequence: int
    document: bytes
    previous_hash: bytes
    hash: bytes

    @property
    def head(self) -> Head:
        """Where the chain has come to with this record."""
        return Head(self.sequence, self.hash)


class DamagedError(ValueError):
    """The file is not what was written; the text says how."""


class Cursor(NamedTuple):
    """A place in a file between two records."""

    head: Head
    offset: int


@dataclass(slots=True)
class Segment:
    """One file: where the chain was before it and after it, how many of its bytes count, where the first record is,
    and whether records may be added.
    """

    path: Path
    start: Head
    end: Head
    size: int
    first: int
    is_open: bool = True

    @classmethod
    def create(cls, folder: Path, start: Head) -> "Segment":
        """A new file, durable, for what follows `start`."""
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
        """Append records and have them on the disk, or raise `OSError` and count none of them."""
        data = b"".join([b"%d %s %s\n" % (one.sequence, one.hash.hex().encode(), one.document) for one in records])
        with _existing(self.path, os.O_WRONLY) as file:
            if os.fstat(file).st_size < self.size:
                raise DamagedError("it is shorter than what was written")
            os.ftruncate(file, self.size)  # what a write that failed left behind
            _write(file, data, self.size)
        self.size += len(data)
        self.end = records[-1].head

    def read(self, cursor: Cursor) -> Iterator[tuple[Record, Cursor]]:
        """The records that follow `cursor`, within some megabytes, each with the place after it."""
        wanted = min(READ_BYTES, self.size - cursor.offset)
        with _existing(self.path, os.O_RDONLY) as file:
            data = os.pread(file, wanted, cursor.offset)
        whole = data[: data.rfind(b"\n") + 1]
        if len(data) < wanted or not whole:
            raise DamagedError("it is shorter than what was written")
        return parsed(whole, cursor)


class Told(NamedTuple):
    """That the record of this sequence tells that those numbered `first` to `last` are lost."""

    sequence: int
    first: int
    last: int


class Found(NamedTuple):
    """What a file holds: a segment, unless its first line is wrong, how many records, the gaps that it tells of, and
    the bytes after what is right.
    """

    segment: Segment | None
    records: int
    told: list[Told]
    rest: bytes

    def taken(self, sequence: int) -> int:
        """The newest sequence that what is not right any more can have taken, after `sequence`."""
        for line in self.rest.removesuffix(b"\n").split(b"\n") if self.rest else ():
            number = re.match(rb"[0-9]{1,18} ", line)
            told = int(number[0]) if number else 0
            sequence = told if sequence < told <= sequence + MAX_SKIPPED else sequence + 1
        return sequence


def name(start: Head) -> str:
    """The name of the file for what follows `start`; names sort as their records do."""
    return f"{start.sequence + 1:020}.log"


def paths(folder: Path) -> list[Path]:
    """The files of a log, oldest first."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdecimal() and len(path.stem) == 20)


def scan(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Found:
    """What of the first `max_bytes` of the file at `path` is as it was written, up to the first byte that is not."""
    with path.open("rb") as file:
        data = file.read(max_bytes)
    first = data.find(b"\n") + 1
    try:
        start = _start(data[:first])
    except DamagedError:
        return Found(None, 0, [], data)
    segment, records = Segment(path, start, start, first, first), 0
    told: list[Told] = []
    with suppress(DamagedError):
        for record, cursor in parsed(data[first:], segment.beginning):
            segment.end, segment.size = record.head, cursor.offset
            records += 1
            told += gaps([record])
    return Found(segment, records, told, data[segment.size :])


def parsed(data: bytes, cursor: Cursor) -> Iterator[tuple[Record, Cursor]]:
    """The records in `data` that follow `cursor`; `Damaged` at the first line that does not, or has no end."""
    head, offset = cursor
    *whole, torn = data.split(b"\n")
    for line in whole:
        record = _record(line, head)
        head, offset = record.head, offset + len(line) + 1
        yield record, Cursor(head, offset)
    if torn:
        raise DamagedError(f"what follows record {head.sequence} has no end")


def gaps(records: Iterable[Record]) -> list[Told]:
    """What records tell to be lost."""
    return [_told(record) for record in records if record.document.startswith(GAP)]


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


def cut(path: Path, right: int) -> None:
    """Leave of the file at `path` its first `right` bytes; 0: nothing."""
    if not right:
        path.unlink(missing_ok=True)
    elif path.exists():
        with _opened(path, os.O_WRONLY) as file:
            os.ftruncate(file, right)
            os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Have on the disk which files `folder` holds."""
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
        raise DamagedError(f"what follows record {head.sequence} is no record") from None
    if record.sequence <= head.sequence or record.hash.hex().encode() != digest:
        raise DamagedError(f"what follows record {head.sequence} does not continue the chain")
    return record


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
    os.fdatasync(file)


def _told(record: Record) -> Told:
    gap = json.loads(record.document)["gap"]
    return Told(record.sequence, gap["first_sequence"], gap["last_sequence"])


def _existing(path: Path, flags: int) -> AbstractContextManager[int]:
    if not path.exists():
        raise DamagedError("it is gone")
    return _opened(path, flags)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)
