"""The decision log on disk: a hash chain in files, bounded, of which what the store has kept goes first.

Sequences are never given twice. What had to give way leaves a gap in them, and a record that tells of it: everything
from the first to the last sequence that it names was given up, save what the store already had.
"""

import errno
import logging
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from pdp.core.fields import quote
from pdp.decision_log import segments
from pdp.decision_log.record import gap
from pdp.decision_log.recovery import Recovery
from pdp.decision_log.segments import Cursor, DamagedError, Found, Head, Record, Segment, Told, sealed

MAX_DOCUMENT_BYTES = 1 << 20
LINE_BYTES, GAP_BYTES = 100, 300
"""At most so many bytes of a line are not the document, and the line of a gap record has."""
SEGMENTS = 64
MAX_SEGMENT_BYTES = 16 << 20
MAX_ASIDE = 16
MAX_REFUSED_BYTES = 16 << 20

Item = bytes | int
"""What is appended: a document, or the number of records that are lost in its place."""

logger = logging.getLogger(__name__)


class DecisionLog:
    """The log in one folder, for one thread at a time; `OSError` from any method leaves it usable, to try again.

    It takes at most `max_bytes`: unless it is told not to `give_way`, the oldest files do.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float], *, give_way: bool = True) -> None:
        self.max_bytes = max_bytes
        self.gives_way = give_way
        self.dropped = 0
        self.damaged = 0
        self._folder = folder
        self._clock = clock
        self._segment_bytes = min(MAX_SEGMENT_BYTES, max_bytes // SEGMENTS)
        self._cursor: tuple[Path, Cursor] | None = None
        self._owed: deque[bytes] = deque()
        self._told: list[Told] = []
        self._to_cut: list[tuple[Path, int]] = []
        folder.mkdir(mode=0o700, exist_ok=True)
        self._kept_path = folder / "kept"
        self.kept = self._read_kept()
        self._segments: list[Segment] = []
        self._head = Head()
        self._recover(self.kept)
        with suppress(OSError):  # whoever appends next meets it too
            for _ in self.append(deque()):
                pass

    @property
    def last(self) -> int:
        """The newest sequence that is taken."""
        return self._head.sequence

    @property
    def bytes(self) -> int:
        """How much the files hold."""
        return sum(segment.size for segment in self._segments)

    @property
    def owes(self) -> bool:
        """Whether the next `append` has something to tell, even of no items."""
        return bool(self._owed)

    @property
    def unsent(self) -> int:
        """How many records the store is not known to have."""
        first = self._segments[0].start.sequence if self._segments else self.last
        return self.last - min(self.last, max(self.kept, first))

    def append(self, items: deque[Item]) -> Iterator[list[Record]]:
        """Put items on the disk: takes from `items` what is there, and yields the records."""
        while items or self._owed:
            try:
                yield self._append_some(items)
            except DamagedError as error:
                self._repair(error)
        self._cut_damaged()

    def after(self, sequence: int, most_records: int, max_bytes: int) -> list[Record]:
        """The oldest records after `sequence`, of one file."""
        for segment in self._segments:
            if segment.end.sequence > sequence:
                try:
                    records = self._read(segment, sequence, most_records, max_bytes)
                except DamagedError as error:
                    self._repair(error)
                    return self.after(sequence, most_records, max_bytes)
                if records:
                    return records
        return []

    def keep(self, sequence: int) -> None:
        """Note that the store has all up to `sequence`; files that hold nothing else go."""
        kept = max(self.kept, sequence)
        sent = [segment for segment in self._segments[:-1] if segment.end.sequence <= kept]
        try:
            # First, and on the disk: without the note, files that are gone are records that were lost.
            self._note(kept, durable=bool(sent))
        except OSError as error:
            if not sent or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._remove_all(sent)  # which makes room for the note
            self._note(kept)
        self.kept = kept
        self._remove_all(sent)
        self._told = [told for told in self._told if told.sequence > kept]

    def refuse(self, record: Record) -> None:
        """Lay aside a record that the store will not have, as if it had it; a gap record tells of it.

        A gap record itself leaves none: where the store refuses those as well, each would only lead to the next.
        """
        path = self._folder / "refused.jsonl"
        with suppress(FileNotFoundError):
            if path.stat().st_size > MAX_REFUSED_BYTES:
                path.replace(path.with_suffix(".jsonl.old"))
        with open(path, "ab", opener=_private) as file:
            file.write(record.document + b"\n")
        self.keep(record.sequence)
        if not record.document.startswith(segments.GAP):
            self._owed.append(gap(record.sequence, record.sequence, self._clock()))

    def go_on_after(self, sequence: int) -> None:
        """Number what is unsent anew, since the store has other records up to `sequence`, from a life of this folder
        that is lost to it: the folder was put back to an older state.
        """
        logger.error(
            "the store has %d decisions of this sidecar, and its log ends at %d: was `--data-dir` put back to an older "
            "state? what is unsent is sent under new numbers",
            sequence,
            self.last,
        )
        if self._segments and self._segments[-1].is_empty:
            self._remove(self._segments[-1])
        old = list(self._segments)
        self._head = Head(max(sequence, self.last), self._head.hash)
        self._segments.append(Segment.create(self._folder, self._head))
        try:
            for segment in old[:-1]:
                self._append_again(segment)
                self.keep(segment.end.sequence)
            for segment in old[-1:]:
                self._append_again(segment)
        except DamagedError as error:  # the store's next answer leads here again
            self._repair(error)
        else:
            self.keep(max(sequence, *(segment.end.sequence for segment in old)) if old else sequence)

    def _append_again(self, segment: Segment) -> None:
        kept = self.kept
        while segment in self._segments and (records := self._read(segment, kept, 1000, MAX_SEGMENT_BYTES)):
            kept = records[-1].sequence
            for _ in self.append(deque(record.document for record in records)):
                pass

    def _note(self, kept: int, *, durable: bool = False) -> None:
        # In its place, which takes no room on a full disk; torn, it is not believed. Where it is not durable, a crash
        # may leave an older number, and records are sent twice.
        number = b"%020d" % kept
        file = _private(str(self._kept_path), os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(file, b"%s %s\n" % (number, _check(number)), 0)
            if durable:
                os.fdatasync(file)
        finally:
            os.close(file)

    def _append_some(self, items: deque[Item]) -> list[Record]:
        segment = self._active()
        records = self._sealed(items)
        taken = len(records)
        victims = self._victims(sum(len(record.document) + LINE_BYTES for record in records))
        for first, last in self._given_up(victims[-1].end.sequence) if victims else ():
            head = records[-1].head
            records.append(sealed(head, head.sequence + 1, gap(first, last, self._clock())))
        segment.write(records)
        self._head = records[-1].head
        self._told += segments.gaps(records)
        for _ in range(taken):
            item = self._owed.popleft() if self._owed else items.popleft()
            self.dropped += item if isinstance(item, int) else 0
        for victim in victims:
            self.dropped += victim.end.sequence - min(victim.end.sequence, max(self.kept, victim.start.sequence))
            self._remove(victim)
        return records

    def _active(self) -> Segment:
        newest = self._segments[-1] if self._segments else None
        if newest is None or newest.size >= self._segment_bytes or not newest.is_open:
            newest = Segment.create(self._folder, self._head)
            self._segments.append(newest)
        return newest

    def _sealed(self, items: deque[Item]) -> list[Record]:
        """The next records, as many as a file holds."""
        records: list[Record] = []
        head, size = self._head, 0
        for item in chain(self._owed, items):
            sequence, document = head.sequence + 1, item
            if isinstance(document, int):
                sequence, document = sequence + document, gap(sequence, head.sequence + document, self._clock())
            records.append(sealed(head, sequence, document))
            head, size = records[-1].head, size + len(document)
            if size >= self._segment_bytes:
                break
        return records

    def _victims(self, more: int) -> list[Segment]:
        excess = self.bytes + more + GAP_BYTES - self.max_bytes if self.gives_way else 0
        victims = []
        for segment in self._segments[:-1]:
            if excess <= 0:
                break
            victims.append(segment)
            excess -= segment.size
        return victims

    def _given_up(self, until: int) -> list[tuple[int, int]]:
        """What is lost when the oldest files go, up to sequence `until`; with what only records in them tell of."""
        lost = [(told.first, told.last) for told in self._told if self.kept < told.sequence <= until]
        if until > self.kept:
            lost.append((self.kept + 1, until))
        joined: list[tuple[int, int]] = []
        for first, last in sorted(lost):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(last, joined[-1][1])
            else:
                joined.append((first, last))
        return joined

    def _read(self, segment: Segment, sequence: int, most_records: int, max_bytes: int) -> list[Record]:
        cursor = segment.beginning
        if self._cursor is not None and self._cursor[0] == segment.path and self._cursor[1].head.sequence <= sequence:
            cursor = self._cursor[1]
        records: list[Record] = []
        size = 0
        while cursor.offset < segment.size:
            for record, after in segment.read(cursor):
                if record.sequence > sequence:
                    size += len(record.document)
                    if records and (len(records) == most_records or size > max_bytes):
                        return records
                    records.append(record)
                cursor = after
                self._cursor = segment.path, cursor
        return records

    def _remove_all(self, sent: list[Segment]) -> None:
        for segment in sent:
            if segment in self._segments:
                self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._segments.remove(segment)

    def _read_kept(self) -> int:
        """The position as it was noted; where that is lost, what is not here any more counts as sent."""
        with suppress(OSError, ValueError):
            number, check = self._kept_path.read_bytes()[:64].split()
            if check == _check(number):
                return int(number)
        kept = next((int(path.stem) - 1 for path in segments.paths(self._folder)), 0)
        self._note(kept)
        return kept

    def _recover(self, taken: int) -> None:
        """Take in the files as they are, and tell of what is not there any more of the sequences up to `taken`."""
        found = Recovery(self._folder, self.kept, taken)
        for path, damaged in found.damaged:
            self._set_aside(path, damaged)
        for first, last in found.untold():
            self._tell_lost(first, last)
        self._segments, self._head, self._told = found.segments, found.head, found.told

    def _repair(self, error: DamagedError) -> None:
        """Take in anew what is on the disk, which is not what this process left there."""
        logger.error("the decision log changed on the disk: %s", error)
        before, self._cursor = self.damaged, None
        self._recover(self.last)
        self.damaged = max(self.damaged, before + 1)

    def _set_aside(self, path: Path, found: Found) -> None:
        """Copy a damaged file. It is cut only once the log tells of what it lacks, so that no crash hides that."""
        self.damaged += 1
        aside = segments.copy_aside(path)
        logger.error("the decision log's %s is damaged; kept as %s", quote(path.name), quote(aside.name))
        for old in sorted(self._folder.glob("*.damaged"))[:-MAX_ASIDE]:
            old.unlink()
        if found.segment is not None:
            found.segment.is_open = False
        self._to_cut.append((path, found.segment.size if found.segment else 0))

    def _cut_damaged(self) -> None:
        while self._to_cut:
            segments.cut(*self._to_cut[0])
            self._to_cut.pop(0)

    def _tell_lost(self, first: int, last: int) -> None:
        first = max(first, self.kept + 1)
        if first <= last:
            self.dropped += last - first + 1
            self._owed.append(gap(first, last, self._clock()))


def _check(number: bytes) -> bytes:
    return b"%08x" % zlib.crc32(number)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
