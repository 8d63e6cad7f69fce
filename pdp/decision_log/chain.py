"""The files of a decision log that are in force, as one chain of batches."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pdp.decision_log.segments import READ_BYTES, Gap, Segment
from pdp.log_format.batches import MAX_BATCH_RECORDS, Batch, opened
from pdp.log_format.frames import Cursor, Head


class Chain:
    """Files in `folder` that are filled up to `segment_bytes`, with what they hold."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.segments: list[Segment] = []
        self.head = Head()
        self.gaps: list[Gap] = []
        self._folder = folder
        self._cursor: tuple[Path, Cursor] | None = None

    def load(self, files: list[Segment], head: Head, gaps: list[Gap]) -> None:
        """Take these files, as they are on the disk, in place of those before."""
        self.segments, self.head, self.gaps, self._cursor = files, head, gaps, None

    @property
    def size(self) -> int:
        """The size of all files."""
        return sum(segment.size for segment in self.segments)

    def write(self, batches: Sequence[Batch], gaps: Iterable[Gap]) -> None:
        """Append batches that continue the chain and name these gaps."""
        segment = self.active()
        segment.write(batches)
        self.head = segment.end
        self.gaps += gaps

    def begin_after(self, sequence: int) -> None:
        """Begin a new file, in which the sequences go on after `sequence`."""
        if self.segments and self.segments[-1].is_empty:
            self.remove(self.segments[-1])
        self.head = Head(max(sequence, self.head.sequence), self.head.hash)
        self.segments.append(Segment.create(self._folder, self.head))

    def remove(self, segment: Segment) -> None:
        """Delete a file."""
        segment.path.unlink(missing_ok=True)
        self.segments.remove(segment)

    def oldest(self, excess: int) -> list[Segment]:
        """The files that must go to make room for `excess` bytes; the newest never does."""
        victims = []
        for segment in self.segments[:-1]:
            if excess <= 0:
                break
            victims.append(segment)
            excess -= segment.size
        return victims

    def read(self, segment: Segment, sequence: int, max_records: int, max_bytes: int) -> list[Batch]:
        """The oldest batches of a file with records after `sequence`: one, and more that are within both bounds."""
        cursor = segment.beginning
        if self._cursor is not None and self._cursor[0] == segment.path and self._cursor[1].head.sequence <= sequence:
            cursor = self._cursor[1]
        batches: list[Batch] = []
        records = size = 0
        while cursor.offset < segment.size:
            for batch, after in segment.read(cursor):
                if batch.last > sequence:
                    records += batch.records
                    size += len(batch.content)
                    if batches and (records > max_records or size > max_bytes):
                        return batches
                    batches.append(batch)
                cursor = after
                self._cursor = segment.path, cursor
        return batches

    def records_after(self, segment: Segment, sequence: int) -> Iterator[list[bytes]]:
        """The records of a file after `sequence`, batch by batch."""
        while segment in self.segments and (batches := self.read(segment, sequence, MAX_BATCH_RECORDS, READ_BYTES)):
            for batch in batches:
                records = opened(batch.content).records[max(0, sequence + 1 - batch.first) :]
                yield [record.SerializeToString() for record in records]
            sequence = batches[-1].last

    def active(self) -> Segment:
        """The file that takes the next batches."""
        newest = self.segments[-1] if self.segments else None
        if newest is None or newest.size >= self.segment_bytes or not newest.is_open:
            newest = Segment.create(self._folder, self.head)
            self.segments.append(newest)
        return newest
