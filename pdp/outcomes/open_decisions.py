"""The decisions of the last hour that allowed an action, whose outcomes may still be reported."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

OPEN_SECONDS = 3600.0
"""A decision whose outcome is not reported for so long settles at its estimate."""
SEGMENT = 4096
MAX_SEGMENTS = 8
MAX_DECISIONS = SEGMENT * MAX_SEGMENTS
"""About 260 bytes each, 340 with an approval: 11 MB at most."""


class Allowed(NamedTuple):
    """A decision that allowed an action: what it charged in micro-dollars, at `at` (Unix seconds) in this time zone.

    `approval_id` is the approval that it used; empty: none.
    """

    decision_id: str
    agent_id: str
    zone: str
    at: float
    cost_micros: int
    approval_id: str = ""
    reported: bool = False


Row = tuple[str, str, str, float, int, str, bool]
"""An `Allowed` as a plain tuple: quicker to make, and the garbage collector need not visit it."""
Segment = dict[str, Row]


class OpenDecisions:
    """Decisions by id, at most 32,768 and for at most an hour; one that is dropped settles at its estimate.

    They are held in segments, in the order of their making, so that the oldest are dropped without a search.
    """

    def __init__(self, max_segments: int = MAX_SEGMENTS) -> None:
        self.dropped = 0
        """Decisions that were dropped before their hour was over, to bound memory."""
        self._max_segments = max_segments
        self._newest: Segment = {}
        self._segments = deque([self._newest])

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    def add(self, row: Row) -> None:
        """Remember a decision."""
        if len(self._newest) >= SEGMENT:
            self._begin_segment(row[3])
        self._newest[row[0]] = row

    def get(self, decision_id: str, wall: float) -> Allowed | None:
        """The decision with this id, if it was made within the last hour."""
        for segment in reversed(self._segments):
            found = segment.get(decision_id)
            if found is not None:
                allowed = Allowed(*found)
                return allowed if wall - allowed.at < OPEN_SECONDS else None
        return None

    def report(self, decision_id: str) -> None:
        """Note that the outcome of a decision was reported; it is remembered, so that a repeat is recognised."""
        for segment in self._segments:
            if decision_id in segment:
                segment[decision_id] = (*segment[decision_id][:-1], True)

    def expire(self, wall: float) -> None:
        """Drop the segments that hold only decisions of more than an hour ago."""
        while self._segments[0] and wall - _last(self._segments[0]).at >= OPEN_SECONDS:
            self._segments.popleft()
            if not self._segments:
                self._append_segment()

    def segments(self) -> list[Segment]:
        """Copies of the segments, oldest first; copying all of them takes less than a millisecond."""
        return [segment.copy() for segment in self._segments]

    def extend(self, rows: Iterable[Row]) -> None:
        """Remember several decisions, oldest first."""
        for row in rows:
            self.add(row)

    def _begin_segment(self, wall: float) -> None:
        self.expire(wall)
        if len(self._segments) >= self._max_segments:
            self.dropped += len(self._segments.popleft())
        self._append_segment()

    def _append_segment(self) -> None:
        self._newest = {}
        self._segments.append(self._newest)


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


def _last(segment: Segment) -> Allowed:
    return Allowed(*next(reversed(segment.values())))
