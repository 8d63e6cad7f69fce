"""Items in memory → batches in the chain."""

from collections.abc import Iterable
from itertools import islice

from pdp.decision_log.record import gap, is_gap
from pdp.decision_log.segments import Gap
from pdp.log_format import batches
from pdp.log_format.batches import MAX_BATCH_RECORDS, Batch
from pdp.log_format.frames import FRAME_BYTES, MAX_BATCH_BYTES, Head
from pdp.v1 import log_pb2

LENGTH_BYTES = 5
"""The most bytes of a batch beside a record, for its tag and length."""
BATCH_BYTES = FRAME_BYTES + 12
"""The bytes of a batch in a file beside its records."""
GAP_BYTES = BATCH_BYTES + 100
"""The most bytes of a gap record in a batch of its own."""

Item = bytes | int
"""A record to append, or the number of records that were lost in its place."""


class Sealing:
    """The batches after `head`, as they are made; gaps are recorded at `at`, in Unix seconds.

    A batch has at most 1,000 records, of at most `max_batch_bytes` together unless it is one record.
    """

    def __init__(self, head: Head, at: float, max_batch_bytes: int = MAX_BATCH_BYTES) -> None:
        self.size = 0
        """The bytes of all records until now."""
        self.gaps: list[Gap] = []
        """The gaps that the records name."""
        self._at = at
        self._max_batch_bytes = max_batch_bytes
        self._hash = head.hash
        self._first = head.sequence + 1
        self._records: list[bytes] = []
        self._open_bytes = 0
        self._all = 0
        self._sealed: list[Batch] = []

    @property
    def size_in_file(self) -> int:
        """The most bytes that the batches take in a file."""
        return self.size + LENGTH_BYTES * self._all + BATCH_BYTES * (len(self._sealed) + 1)

    def take(self, items: Iterable[Item], max_bytes: int, max_items: int | None = None) -> int:
        """Add items until their records have `max_bytes`; the number of items added."""
        taken = 0
        for item in islice(items, max_items):
            if isinstance(item, int):
                self._lose(item)
            else:
                self.add(item)
            taken += 1
            if self.size >= max_bytes:
                break
        return taken

    def add(self, record: bytes) -> None:
        """Add a serialized record under the next sequence."""
        size = len(record)
        if len(self._records) == MAX_BATCH_RECORDS or self._open_bytes + size > self._max_batch_bytes:
            self._seal()
        if is_gap(record):
            named = log_pb2.LogRecord.FromString(record).gap
            self.gaps.append(Gap(self._first + len(self._records), named.first_sequence, named.last_sequence))
        self._records.append(record)
        self._all += 1
        self._open_bytes += size
        self.size += size

    def skip_to(self, sequence: int) -> None:
        """Give the next record this sequence."""
        if sequence != self._first + len(self._records):
            self._seal()
            self._first = sequence

    def batches(self) -> list[Batch]:
        """All batches, the last one sealed too."""
        self._seal()
        return self._sealed

    def _lose(self, count: int) -> None:
        lost = self._first + len(self._records)
        self.skip_to(lost + count)
        self.add(gap(lost, lost + count - 1, self._at))

    def _seal(self) -> None:
        if not self._records:
            return
        batch = batches.sealed(self._hash, self._first, self._records)
        self._sealed.append(batch)
        self._hash, self._first = batch.hash, batch.last + 1
        self._records, self._open_bytes = [], 0
