"""Recovery of a decision log: finds intact, torn, damaged and lost records on disk, and sees that losses are told."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from pdp.core.fields import quote
from pdp.decision_log import segments
from pdp.decision_log.chain import Chain
from pdp.decision_log.record import gap
from pdp.decision_log.segments import Gap, ScanResult, Segment
from pdp.log_format.frames import DamagedError, Head

logger = logging.getLogger(__name__)


class Found:
    """The files of a log, oldest first; the store has every record up to `kept`, and sequences up to `taken` are used.

    A torn write that names no sequences is removed here. Other torn or damaged files are left as they are.
    """

    def __init__(self, folder: Path, kept: int, taken: int) -> None:
        self.segments: list[Segment] = []
        self.torn: list[Path] = []
        self.unfinished: list[tuple[Path, ScanResult]] = []
        """The torn files that name the sequences of what is lost."""
        self.damaged: list[tuple[Path, ScanResult]] = []
        self._taken = taken
        self._intact = Head(kept, b"kept")  # the newest intact record
        self._lost: list[tuple[int, int]] = []
        self.gaps: list[Gap] = []
        paths = segments.paths(folder)
        for path in paths:
            self._take(path, segments.scan(path), is_newest=path == paths[-1])
        self._lost.append((self._intact.sequence + 1, self._taken))

    @property
    def head(self) -> Head:
        """The end of the chain, and the newest sequence that may have been used."""
        return Head(self._taken, self.segments[-1].end.hash if self.segments else Head().hash)

    def unrecorded_losses(self) -> Iterator[tuple[int, int]]:
        """The first and last sequence of each loss that no gap record covers."""
        for first, last in self._lost:
            if not any(known <= first and last <= until for _, known, until in self.gaps):
                yield first, last

    def _take(self, path: Path, found: ScanResult, *, is_newest: bool) -> None:
        segment = found.segment
        newest = segment.end.sequence if segment else int(path.stem) - 1
        if is_newest and found.is_torn:
            newest = self._tear(path, found, newest)
        elif found.rest:
            self.damaged.append((path, found))
            newest = found.taken(newest)
        self._taken = max(self._taken, newest)
        self.gaps += found.gaps
        if segment is None:
            self._intact = Head(self._intact.sequence, b"lost")
            return
        self.segments.append(segment)
        if segment.start.hash != self._intact.hash:
            self._lost.append((self._intact.sequence + 1, segment.start.sequence))
        self._intact = Head(self._intact.sequence, segment.start.hash) if segment.is_empty else segment.end

    def _tear(self, path: Path, found: ScanResult, newest: int) -> int:
        """Cut a torn write off at once, unless it tells what it used: the newest sequence of the file."""
        taken = newest if found.segment is None else found.taken(newest)
        self.torn.append(path)
        if taken > newest:
            self.unfinished.append((path, found))
        else:
            segments.cut(path, found.segment.size if found.segment else 0)
        return taken


class Recovery:
    """Loads the files of a log into its chain; gap records for what is lost are due then.

    A damaged file is copied, and cut after the gap records are written, so that a crash cannot hide the loss.
    """

    def __init__(self, folder: Path, chain: Chain, clock: Callable[[], float]) -> None:
        self.damaged = 0
        self.lost = 0
        """How many records were lost to damage."""
        self.gaps_due: deque[bytes] = deque()
        self._folder = folder
        self._chain = chain
        self._clock = clock
        self._to_cut: list[tuple[Path, int]] = []

    def load(self, kept: int, taken: int) -> None:
        """Load the files as they are; the store has every record up to `kept`, sequences up to `taken` are used."""
        found = Found(self._folder, kept, taken)
        for path in found.torn:
            logger.warning(
                "the last write to the decision log's %s did not end; its records are lost", quote(path.name)
            )
        for path, _ in found.damaged:
            segments.copy_aside(path)
        self.damaged += len(found.damaged)
        for path, incomplete in (*found.unfinished, *found.damaged):
            self._cut_later(path, incomplete)
        for first, last in found.unrecorded_losses():
            self._record_loss(max(first, kept + 1), last)
        self._chain.load(found.segments, found.head, found.gaps)

    def repair(self, error: DamagedError, kept: int) -> None:
        """Load the files again, because they differ from what this process wrote."""
        logger.error("the decision log changed on the disk: %s", error)
        before = self.damaged
        self.load(kept, self._chain.head.sequence)
        self.damaged = max(self.damaged, before + 1)

    def finish(self) -> None:
        """Cut the torn and damaged files, now that the gap records are written."""
        while self._to_cut:
            segments.cut(*self._to_cut[0])
            self._to_cut.pop(0)

    def _cut_later(self, path: Path, found: ScanResult) -> None:
        if found.segment is not None:
            found.segment.is_open = False
        self._to_cut.append((path, found.segment.size if found.segment else 0))

    def _record_loss(self, first: int, last: int) -> None:
        if first <= last:
            self.lost += last - first + 1
            self.gaps_due.append(gap(first, last, self._clock()))
