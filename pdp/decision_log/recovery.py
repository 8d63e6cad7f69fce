"""Recovery of a decision log: finds intact, torn, damaged and lost records on disk."""

from collections.abc import Iterator
from pathlib import Path

from pdp.decision_log import segments
from pdp.decision_log.segments import Gap, Head, ScanResult, Segment


class Recovery:
    """The files of a log, oldest first; the store has every record up to `kept`, and sequences up to `taken` are used.

    A write that a crash interrupted is removed here. Damaged files are left as they are.
    """

    def __init__(self, folder: Path, kept: int, taken: int) -> None:
        self.segments: list[Segment] = []
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
        if is_newest and b"\n" not in found.rest:  # a write that the last run did not finish
            segments.cut(path, segment.size if segment else 0)
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
