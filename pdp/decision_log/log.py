"""The decision log on disk: a hash chain in files of bounded size. Files that the store has acknowledged go first.

A sequence is never used twice. Dropped records leave a gap in the sequences, and a gap record names the first and the
last dropped sequence: every record between them was dropped, except those that the store already had.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from pdp.decision_log import refused, upgrade
from pdp.decision_log.chain import Chain
from pdp.decision_log.position import Position
from pdp.decision_log.record import gap
from pdp.decision_log.recovery import Recovery
from pdp.decision_log.sealing import GAP_BYTES, Item, Sealing
from pdp.decision_log.segments import Segment
from pdp.log_format import documents
from pdp.log_format.batches import Batch, opened
from pdp.log_format.frames import MAX_BATCH_BYTES, DamagedError
from pdp.v1 import log_pb2

SEGMENTS = 64
MAX_SEGMENT_BYTES = 16 << 20


class DecisionLog:
    """The log in one folder, for one thread at a time; after an `OSError` from any method the call can be retried.

    It takes at most `max_bytes` on disk if `drop_oldest`: then the oldest files are deleted to make room.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float], *, drop_oldest: bool = True) -> None:
        self.max_bytes = max_bytes
        self.drops_oldest = drop_oldest
        self._given_way = 0
        self._folder = folder
        self._clock = clock
        self._is_new = False
        folder.mkdir(mode=0o700, exist_ok=True)
        self._position = Position(folder)
        self.chain = Chain(folder, min(MAX_SEGMENT_BYTES, max_bytes // SEGMENTS))
        self._recovery = Recovery(folder, self.chain, clock)
        self._upgraded = upgrade.upgraded(folder, self.kept, clock)
        self._recovery.load(self.kept, self.kept)
        with suppress(OSError):  # the next append raises it again
            for _ in self.append(deque()):
                pass
        self._is_new = True

    @property
    def last(self) -> int:
        """The newest used sequence."""
        return self.chain.head.sequence

    @property
    def kept(self) -> int:
        """The newest sequence that the store has acknowledged."""
        return self._position.sequence

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return self.chain.size

    @property
    def dropped(self) -> int:
        """The number of records that were lost before the store had them."""
        return self._given_way + self._recovery.lost + self._upgraded.lost

    @property
    def damaged(self) -> int:
        """The number of damaged files."""
        return self._recovery.damaged + self._upgraded.damaged

    @property
    def has_gaps_due(self) -> bool:
        """Whether gap records are due, which the next `append` writes, even without items."""
        return bool(self._recovery.gaps_due)

    @property
    def unsent(self) -> int:
        """The number of records that the store has not acknowledged."""
        segments = self.chain.segments
        first = segments[0].start.sequence if segments else self.last
        return self.last - min(self.last, max(self.kept, first))

    def append(self, items: deque[Item]) -> Iterator[list[Batch]]:
        """Write items to disk: removes them from `items` and yields their batches.

        The first batch of a run has one record: a store that has more of this log than the log itself shows it by its
        answer to that, at the cost of no other record.
        """
        while items or self.has_gaps_due:
            try:
                yield self._append_some(items)
            except DamagedError as error:
                self.repair(error)
        self._recovery.finish()

    def after(self, sequence: int, max_records: int, max_bytes: int) -> list[Batch]:
        """The oldest batches with records after `sequence`, of one file: one, and more that are within both bounds."""
        for segment in self.chain.segments:
            if segment.end.sequence > sequence:
                try:
                    batches = self.chain.read(segment, sequence, max_records, max_bytes)
                except DamagedError as error:
                    self.repair(error)
                    return self.after(sequence, max_records, max_bytes)
                if batches:
                    return batches
        return []

    def keep(self, sequence: int) -> None:
        """Note that the store has every record up to `sequence`; files with no other records are deleted."""
        kept = max(self.kept, sequence)
        sent = [segment for segment in self.chain.segments[:-1] if segment.end.sequence <= kept]
        try:
            # The note comes first and must be durable: without it, deleted files would count as lost records.
            self._position.note(kept, durable=bool(sent))
        except OSError as error:
            if not sent or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._remove_all(sent)  # this makes room for the note
            self._position.note(kept)
        self._remove_all(sent)
        self.chain.gaps = [one for one in self.chain.gaps if one.sequence > kept]

    def set_aside(self, records: Iterable[log_pb2.LogRecord]) -> None:
        """Keep records that the store refused as JSON, for people."""
        refused.set_aside(self._folder, (documents.text(documents.document(record)) for record in records))

    def refuse(self, batch: Batch) -> None:
        """Set aside a batch that the store refused, and go on after it; a gap record takes its place.

        Refused gap records leave no other: if the store refuses all gap records, each would only lead to the next.
        """
        records = opened(batch.content).records
        self.set_aside(records)
        self.keep(batch.last)
        if not all(record.HasField("gap") for record in records):
            self._recovery.gaps_due.append(gap(batch.first, batch.last, self._clock()))

    def repair(self, error: DamagedError) -> None:
        """Load the files again, because they differ from what this process wrote."""
        self._recovery.repair(error, self.kept)

    def _append_some(self, items: deque[Item]) -> list[Batch]:
        self.chain.active()  # a new file counts
        due, limit = self._recovery.gaps_due, self.chain.segment_bytes
        sealing = Sealing(self.chain.head, self._clock(), min(MAX_BATCH_BYTES, limit))
        taken = sealing.take(chain(due, items), limit, 1 if self._is_new else None)
        excess = self.bytes + sealing.size_in_file + GAP_BYTES - self.max_bytes if self.drops_oldest else 0
        victims = self.chain.oldest(excess)
        for first, last in self._lost_ranges(victims[-1].end.sequence) if victims else ():
            sealing.add(gap(first, last, self._clock()))
        batches = sealing.batches()
        self.chain.write(batches, sealing.gaps)
        self._is_new = False
        for _ in range(taken):
            item = due.popleft() if due else items.popleft()
            self._given_way += item if isinstance(item, int) else 0
        for victim in victims:
            self._given_way += victim.end.sequence - min(victim.end.sequence, max(self.kept, victim.start.sequence))
            self.chain.remove(victim)
        return batches

    def _lost_ranges(self, until: int) -> list[tuple[int, int]]:
        """The sequences that are lost when the files up to `until` go, with the gaps that only records in them name."""
        lost = [(one.first, one.last) for one in self.chain.gaps if self.kept < one.sequence <= until]
        if until > self.kept:
            lost.append((self.kept + 1, until))
        joined: list[tuple[int, int]] = []
        for first, last in sorted(lost):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(last, joined[-1][1])
            else:
                joined.append((first, last))
        return joined

    def _remove_all(self, sent: list[Segment]) -> None:
        for segment in sent:
            if segment in self.chain.segments:
                self.chain.remove(segment)
