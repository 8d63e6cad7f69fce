"""The decision log on disk: a hash chain in files of bounded size. Files that the store has acknowledged go first.

A sequence is never used twice. Dropped records leave a gap in the sequences, and a gap record names the first and the
last dropped sequence: every record between them was dropped, except those that the store already had.
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
from pdp.decision_log.segments import Cursor, DamagedError, Gap, Head, Record, ScanResult, Segment, sealed

MAX_DOCUMENT_BYTES = 1 << 20
LINE_BYTES, GAP_BYTES = 100, 300
"""The most bytes of a line beside its document, and of the whole line of a gap record."""
SEGMENTS = 64
MAX_SEGMENT_BYTES = 16 << 20
MAX_ASIDE = 16
MAX_REFUSED_BYTES = 16 << 20

Item = bytes | int
"""An item to append: a document, or the number of records that were lost in its place."""

logger = logging.getLogger(__name__)


class DecisionLog:
    """The log in one folder, for one thread at a time; after an `OSError` from any method the call can be retried.

    It takes at most `max_bytes` on disk if `drop_oldest`: then the oldest files are deleted to make room.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float], *, drop_oldest: bool = True) -> None:
        self.max_bytes = max_bytes
        self.drops_oldest = drop_oldest
        self.dropped = 0
        self.damaged = 0
        self._folder = folder
        self._clock = clock
        self._segment_bytes = min(MAX_SEGMENT_BYTES, max_bytes // SEGMENTS)
        self._cursor: tuple[Path, Cursor] | None = None
        self._gaps_due: deque[bytes] = deque()
        self._gaps: list[Gap] = []
        self._to_cut: list[tuple[Path, int]] = []
        folder.mkdir(mode=0o700, exist_ok=True)
        self._kept_path = folder / "kept"
        self.kept = self._read_kept()
        self._segments: list[Segment] = []
        self._head = Head()
        self._recover(self.kept)
        with suppress(OSError):  # the next append raises it again
            for _ in self.append(deque()):
                pass

    @property
    def last(self) -> int:
        """The newest used sequence."""
        return self._head.sequence

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(segment.size for segment in self._segments)

    @property
    def has_gaps_due(self) -> bool:
        """Whether gap records are due, which the next `append` writes, even without items."""
        return bool(self._gaps_due)

    @property
    def unsent(self) -> int:
        """The number of records that the store has not acknowledged."""
        first = self._segments[0].start.sequence if self._segments else self.last
        return self.last - min(self.last, max(self.kept, first))

    def append(self, items: deque[Item]) -> Iterator[list[Record]]:
        """Write items to disk: removes them from `items` and yields their records."""
        while items or self._gaps_due:
            try:
                yield self._append_some(items)
            except DamagedError as error:
                self._repair(error)
        self._cut_damaged()

    def after(self, sequence: int, max_records: int, max_bytes: int) -> list[Record]:
        """The oldest records after `sequence`, of one file."""
        for segment in self._segments:
            if segment.end.sequence > sequence:
                try:
                    records = self._read(segment, sequence, max_records, max_bytes)
                except DamagedError as error:
                    self._repair(error)
                    return self.after(sequence, max_records, max_bytes)
                if records:
                    return records
        return []

    def keep(self, sequence: int) -> None:
        """Note that the store has every record up to `sequence`; files with no other records are deleted."""
        kept = max(self.kept, sequence)
        sent = [segment for segment in self._segments[:-1] if segment.end.sequence <= kept]
        try:
            # The note comes first and must be durable: without it, deleted files would count as lost records.
            self._note(kept, durable=bool(sent))
        except OSError as error:
            if not sent or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._remove_all(sent)  # this makes room for the note
            self._note(kept)
        self.kept = kept
        self._remove_all(sent)
        self._gaps = [one for one in self._gaps if one.sequence > kept]

    def refuse(self, record: Record) -> None:
        """Set aside a record that the store refused, and go on after it; a gap record takes its place.

        A refused gap record leaves no other: if the store refuses all gap records, each would only lead to the next.
        """
        path = self._folder / "refused.jsonl"
        with suppress(FileNotFoundError):
            if path.stat().st_size > MAX_REFUSED_BYTES:
                path.replace(path.with_suffix(".jsonl.old"))
        with open(path, "ab", opener=_private) as file:
            file.write(record.document + b"\n")
        self.keep(record.sequence)
        if not record.document.startswith(segments.GAP):
            self._gaps_due.append(gap(record.sequence, record.sequence, self._clock()))

    def renumber_after(self, sequence: int) -> None:
        """Give unsent records new sequences after `sequence`: the store has other records up to there, from before the
        data folder was restored from a backup.
        """
        logger.error(
            "the store has %d decisions of this sidecar, but the log ends at %d: was `--data-dir` restored from a "
            "backup? unsent records get new numbers",
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
        except DamagedError as error:  # the store's next answer triggers another try
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
        # Overwritten in place, which needs no room on a full disk; the checksum detects a torn write. If it is not
        # durable, a crash may leave an older number, and records are sent twice.
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
        for first, last in self._lost_ranges(victims[-1].end.sequence) if victims else ():
            head = records[-1].head
            records.append(sealed(head, head.sequence + 1, gap(first, last, self._clock())))
        segment.write(records)
        self._head = records[-1].head
        self._gaps += segments.gaps(records)
        for _ in range(taken):
            item = self._gaps_due.popleft() if self._gaps_due else items.popleft()
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
        """The next records, up to the size of a file."""
        records: list[Record] = []
        head, size = self._head, 0
        for item in chain(self._gaps_due, items):
            sequence, document = head.sequence + 1, item
            if isinstance(document, int):
                sequence, document = sequence + document, gap(sequence, head.sequence + document, self._clock())
            records.append(sealed(head, sequence, document))
            head, size = records[-1].head, size + len(document)
            if size >= self._segment_bytes:
                break
        return records

    def _victims(self, more: int) -> list[Segment]:
        excess = self.bytes + more + GAP_BYTES - self.max_bytes if self.drops_oldest else 0
        victims = []
        for segment in self._segments[:-1]:
            if excess <= 0:
                break
            victims.append(segment)
            excess -= segment.size
        return victims

    def _lost_ranges(self, until: int) -> list[tuple[int, int]]:
        """The sequences that are lost when the files up to `until` go, with the gaps that only records in them name."""
        lost = [(one.first, one.last) for one in self._gaps if self.kept < one.sequence <= until]
        if until > self.kept:
            lost.append((self.kept + 1, until))
        joined: list[tuple[int, int]] = []
        for first, last in sorted(lost):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(last, joined[-1][1])
            else:
                joined.append((first, last))
        return joined

    def _read(self, segment: Segment, sequence: int, max_records: int, max_bytes: int) -> list[Record]:
        cursor = segment.beginning
        if self._cursor is not None and self._cursor[0] == segment.path and self._cursor[1].head.sequence <= sequence:
            cursor = self._cursor[1]
        records: list[Record] = []
        size = 0
        while cursor.offset < segment.size:
            for record, after in segment.read(cursor):
                if record.sequence > sequence:
                    size += len(record.document)
                    if records and (len(records) == max_records or size > max_bytes):
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
        """The noted position; if the note is lost, records that are no longer here count as sent."""
        with suppress(OSError, ValueError):
            number, check = self._kept_path.read_bytes()[:64].split()
            if check == _check(number):
                return int(number)
        kept = next((int(path.stem) - 1 for path in segments.paths(self._folder)), 0)
        self._note(kept)
        return kept

    def _recover(self, taken: int) -> None:
        """Load the files as they are, and schedule gap records for missing sequences up to `taken`."""
        found = Recovery(self._folder, self.kept, taken)
        for path, damaged in found.damaged:
            self._set_aside(path, damaged)
        for first, last in found.unrecorded_losses():
            self._record_loss(first, last)
        self._segments, self._head, self._gaps = found.segments, found.head, found.gaps

    def _repair(self, error: DamagedError) -> None:
        """Load the files again, because they differ from what this process wrote."""
        logger.error("the decision log changed on the disk: %s", error)
        before, self._cursor = self.damaged, None
        self._recover(self.last)
        self.damaged = max(self.damaged, before + 1)

    def _set_aside(self, path: Path, found: ScanResult) -> None:
        """Copy a damaged file. It is cut after the gap records are written, so that a crash cannot hide the loss."""
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

    def _record_loss(self, first: int, last: int) -> None:
        first = max(first, self.kept + 1)
        if first <= last:
            self.dropped += last - first + 1
            self._gaps_due.append(gap(first, last, self._clock()))


def _check(number: bytes) -> bytes:
    return b"%08x" % zlib.crc32(number)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
