"""The files of the decision log: each is a part of one hash chain.

The first line holds a magic word, and the sequence and hash that the file continues. Frames of batches follow.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.log_format.batches import BadBatchError, Batch, opened
from pdp.log_format.frames import Cursor, DamagedError, Head, TornError, claimed, framed, is_torn, parsed
from pdp.v1 import log_pb2 as pb

MAGIC = b"pdp-decisions-2"
MAX_FILE_BYTES = 1 << 30
READ_BYTES = 2 << 20
MAX_ASIDE = 16

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Segment:
    """One file: the end of the chain before it and after it, the number of valid bytes, the offset of the first batch,
    and whether batches may be appended.
    """

    path: Path
    start: Head
    end: Head
    size: int
    first: int
    is_open: bool = True

    @classmethod
    def create(cls, folder: Path, start: Head, batches: Sequence[Batch] = ()) -> "Segment":
        """A new, durable file for what follows `start`: whole, or not there."""
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name(start)
        header = b"%s %d %s\n" % (MAGIC, start.sequence, start.hash.hex().encode())
        data = header + b"".join(map(framed, batches))
        unfinished = path.with_suffix(".new")
        with _opened(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            _write(file, data, 0)
        unfinished.replace(path)
        sync_folder(folder)
        end = Head(batches[-1].last, batches[-1].hash) if batches else start
        return cls(path, start, end, len(data), len(header))

    @property
    def is_empty(self) -> bool:
        """Whether it holds no record."""
        return self.end == self.start

    @property
    def beginning(self) -> Cursor:
        """The place before the first batch."""
        return Cursor(self.start, self.first)

    def write(self, batches: Sequence[Batch]) -> None:
        """Append batches durably, or raise `OSError` and keep none of them."""
        data = b"".join(map(framed, batches))
        with _existing(self.path, os.O_WRONLY) as file:
            if os.fstat(file).st_size < self.size:
                raise DamagedError("it is shorter than what was written")
            os.ftruncate(file, self.size)  # removes what a failed write left behind
            _write(file, data, self.size)
        self.size += len(data)
        self.end = Head(batches[-1].last, batches[-1].hash)

    def read(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """The next batches after `cursor`, up to 2 MiB but at least one, each with the cursor after it."""
        wanted = min(READ_BYTES, self.size - cursor.offset)
        with _existing(self.path, os.O_RDONLY) as file:
            data = os.pread(file, wanted, cursor.offset)
        if len(data) < wanted:
            raise DamagedError("it is shorter than what was written")
        after = cursor
        try:
            for batch, after in parsed(data, cursor):
                yield batch, after
        except TornError:
            if after == cursor:  # otherwise the next read begins with this frame
                raise


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

    @property
    def is_torn(self) -> bool:
        """Whether the rest is the beginning of a write that did not end."""
        return b"\n" not in self.rest if self.segment is None else bool(self.rest) and is_torn(self.rest)

    def taken(self, sequence: int) -> int:
        """The newest sequence that the invalid rest can have used, after `sequence`."""
        return claimed(self.rest, sequence)


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
    for content, cursor in _intact(data, segment.beginning):
        named += gaps(content)
        records += len(content.records)
        segment.end, segment.size = cursor.head, cursor.offset
    return ScanResult(segment, records, named, data[segment.size :])


def contents(data: bytes) -> Iterator[pb.LogBatch]:
    """The batches in the valid part of a file."""
    first = data.find(b"\n") + 1
    with suppress(DamagedError):
        for content, _ in _intact(data, Cursor(_start(data[:first]), first)):
            yield content


def _intact(data: bytes, cursor: Cursor) -> Iterator[tuple[pb.LogBatch, Cursor]]:
    """The batches of a file from `cursor` on until the first wrong byte, each with the cursor after it."""
    with suppress(DamagedError, BadBatchError):
        for batch, after in parsed(data[cursor.offset :], cursor):
            content = opened(batch.content)
            if (content.first_sequence, len(content.records)) != (batch.first, batch.records):
                return
            yield content, after


def gaps(content: pb.LogBatch) -> list[Gap]:
    """The gaps that the records of a batch name."""
    return [
        Gap(sequence, record.gap.first_sequence, record.gap.last_sequence)
        for sequence, record in enumerate(content.records, content.first_sequence)
        if record.HasField("gap")
    ]


def copy_aside(path: Path) -> None:
    """Keep a copy of the damaged file at `path` for people to look at: the newest sixteen."""
    aside = path.with_suffix(".damaged")
    shutil.copyfile(path, aside)
    aside.chmod(0o600)
    logger.error("the decision log's %s is damaged; kept as %s", quote(path.name), quote(aside.name))
    for old in sorted(path.parent.glob("*.damaged"))[:-MAX_ASIDE]:
        old.unlink()


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
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as file:
        os.fsync(file)


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


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
    os.fdatasync(file)


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
