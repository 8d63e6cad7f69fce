"""The decisions of the last hour that allowed an action, whose outcomes may still be reported."""

from collections import deque
from collections.abc import Iterable, Iterator

from pdp.outcomes.blocks import Block, Row, key_of
from pdp.outcomes.segments import Allowed, Recent, Segment

OPEN_SECONDS = 3600.0
"""A decision whose outcome is not reported for so long settles at its estimate."""
SEGMENT = 4096
MAX_SEGMENTS = 64
"""Segments are full, or two neighbours together are, unless the clock is set back more often than this in an hour."""
MAX_DECISIONS = 8 * SEGMENT
"""Some 40 bytes each once they are packed, and 100 more with an approval; 260 to 340 until then."""


class OpenDecisions:
    """Decisions by id, at most 32,768 and for at most an hour; one that is dropped settles at its estimate.

    They are held in segments, in the order of their making, so that the oldest are dropped without a search. The newest
    are as they were made until `take`, a thread and `adopt` have packed them.
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Decisions that were dropped before their hour was over, to bound memory."""
        self._segments: deque[Segment] = deque()
        self._recents: deque[Recent] = deque()
        self._begin_recent()

    def __len__(self) -> int:
        return sum(map(len, self._segments)) + sum(map(len, self._recents))

    def add(self, row: Row) -> None:
        """Remember a decision."""
        if len(self._rows) >= self._room:
            self._make_room(row[3])
        self._rows[row[0]] = row

    def get(self, decision_id: str, wall: float) -> Allowed | None:
        """The decision with this id, if it was made within the last hour."""
        found = self._found(decision_id)
        return found if found is not None and wall - found.at < OPEN_SECONDS else None

    def report(self, decision_id: str) -> None:
        """Note that the outcome of a decision was reported; it is remembered, so that a repeat is recognised."""
        for recent in self._recents:
            if decision_id in recent.rows:
                recent.reported.add(decision_id)
                return
        for segment, place in self._places(decision_id):
            segment.report(place)

    def expire(self, wall: float) -> None:
        """Drop the segments that hold only decisions of more than an hour ago."""
        while self._segments and wall - self._segments[0].latest >= OPEN_SECONDS:
            self._segments.popleft()
        while not self._segments and self._recents[0].rows and wall - self._recents[0].latest >= OPEN_SECONDS:
            self._recents.popleft()
            if not self._recents:
                self._begin_recent()

    def take(self) -> list[Recent]:
        """The decisions that are not packed, oldest first; they can be found here until `adopt` replaces them."""
        if self._rows:
            self._begin_recent()
        return list(self._recents)[:-1]

    def adopt(self, recent: Recent, blocks: Iterable[Block]) -> None:
        """Keep the packed form of the oldest decisions that `take` gave, in place of them."""
        if self._recents[0] is not recent:  # it was dropped meanwhile
            return
        self._recents.popleft()
        marks, start = recent.marks(), 0
        for block in blocks:
            end = start + len(block)
            self._append(block, marks[start:end])
            start = end

    def extend(self, blocks: Iterable[Block]) -> None:
        """Remember packed decisions, oldest first."""
        for block in blocks:
            self.expire(block.times[-1])
            self._append(block, block.reported)
            self._bound(MAX_DECISIONS)
        self._set_room()

    def blocks(self) -> list[Block]:
        """Copies of what is packed, oldest first; copying all of it takes less than a millisecond."""
        return [segment.block() for segment in self._segments]

    def _found(self, decision_id: str) -> Allowed | None:
        for recent in self._recents:
            if (found := recent.get(decision_id)) is not None:
                return found
        return next((segment.at(place) for segment, place in self._places(decision_id)), None)

    def _places(self, decision_id: str) -> Iterator[tuple[Segment, int]]:
        key = key_of(decision_id)
        if key is not None:
            for segment in reversed(self._segments):
                if (place := segment.find(key)) is not None:
                    yield segment, place

    def _append(self, block: Block, marks: bytes) -> None:
        last = self._segments[-1] if self._segments else None
        if last is None or len(last) + len(block) > SEGMENT or not last.precedes(block):
            self._begin_segment()
        self._segments[-1].extend(block, marks)

    def _begin_segment(self) -> None:
        if self._segments:
            self._segments[-1].seal()
        if len(self._segments) >= MAX_SEGMENTS:
            self._drop_oldest()
        self._segments.append(Segment())

    def _begin_recent(self) -> None:
        newest = Recent()
        self._recents.append(newest)
        self._rows = newest.rows
        self._set_room()

    def _make_room(self, wall: float) -> None:
        self.expire(wall)
        if len(self._rows) >= SEGMENT:
            self._begin_recent()
        self._bound(MAX_DECISIONS - 1)
        self._set_room()

    def _set_room(self) -> None:
        """How many decisions the newest `Recent` may hold, which holds some already."""
        self._room = min(SEGMENT, MAX_DECISIONS - len(self) + len(self._rows))

    def _bound(self, most: int) -> None:
        while len(self) > most:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.dropped += len(self._segments.popleft() if self._segments else self._recents.popleft())


class NotAllowed:
    """The last decisions that allowed no action, at most 8,192 of about 240 bytes: no outcome is taken for them."""

    _MOST = 4096

    def __init__(self) -> None:
        self._newer: dict[str, tuple[str, str]] = {}
        self._older: dict[str, tuple[str, str]] = {}

    def add(self, decision_id: str, agent_id: str, why: str) -> None:
        """Remember a decision, and why no outcome is taken."""
        if len(self._newer) >= self._MOST:
            self._older, self._newer = self._newer, {}
        self._newer[decision_id] = agent_id, why

    def get(self, decision_id: str) -> tuple[str, str] | None:
        """The agent of the decision with this id, and why no outcome is taken."""
        return self._newer.get(decision_id) or self._older.get(decision_id)
