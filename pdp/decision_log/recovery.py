"""What a decision log finds on its disk: what is right, what is torn, what is damaged, what is lost."""

from collections.abc import Iterator
from pathlib import Path

from pdp.decision_log import segments
from pdp.decision_log.segments import Found, Head, Segment, Told


class Recovery:
    """The files of a log, oldest first, where the store is known to have all up to `kept`, and `taken` are given.

    A write that a crash cut off is cut here. Damaged files are left as they are.
    """

    def __init__(self, folder: Path, kept: int, taken: int) -> None:
        self.segments: list[Segment] = []
        self.damaged: list[tuple[Path, Found]] = []
        self._taken = taken
        self._right = Head(kept, b"kept")  # the newest record that is not lost
        self._lost: list[tuple[int, int]] = []
        self.told: list[Told] = []
        paths = segments.paths(folder)
        for path in paths:
            self._take(path, segments.scan(path), is_newest=path == paths[-1])
        self._lost.append((self._right.sequence + 1, self._taken))

    @property
    def head(self) -> Head:
        """Where the chain has come to, and the newest sequence that may have been given."""
        return Head(self._taken, self.segments[-1].end.hash if self.segments else Head().hash)

    def untold(self) -> Iterator[tuple[int, int]]:
        """The first and last sequence of what is lost and of which no record tells."""
        for first, last in self._lost:
            if not any(known <= first and last <= until for _, known, until in self.told):
                yield first, last

    def _take(self, path: Path, found: Found, *, is_newest: bool) -> None:
        segment = found.segment
        newest = segment.end.sequence if segment else int(path.stem) - 1
        if is_newest and b"\n" not in found.rest:  # a write that the last life did not finish
            segments.cut(path, segment.size if segment else 0)
        elif found.rest:
            self.damaged.append((path, found))
            newest = found.taken(newest)
        self._taken = max(self._taken, newest)
        self.told += found.told
        if segment is None:
            self._right = Head(self._right.sequence, b"lost")
            return
        self.segments.append(segment)
        if segment.start.hash != self._right.hash:
            self._lost.append((self._right.sequence + 1, segment.start.sequence))
        self._right = Head(self._right.sequence, segment.start.hash) if segment.is_empty else segment.end
