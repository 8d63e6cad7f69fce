"""What reports of outcomes need, and the changes to it since the last write to disk."""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from sys import intern
from typing import Any, NamedTuple

from pdp.core.model import Trigger
from pdp.core.usage import Failures
from pdp.metrics import Metrics
from pdp.outcomes.open_decisions import MAX_DECISIONS, NotAllowed, OpenDecisions, Row, Segment
from pdp.outcomes.suspensions import Suspension, Suspensions

PART = 500


class Changes(NamedTuple):
    """Decisions that allowed, ids of reported ones, and the newest state of agents that changed; None: removed."""

    allowed: list[Row]
    reported: list[str]
    failures: dict[str, Failures]
    suspensions: dict[str, Suspension | None]

    def __bool__(self) -> bool:
        return any(self)

    def parts(self) -> Iterator["Changes"]:
        """The same in parts that take well under a millisecond to encode."""
        for start in range(0, len(self.allowed), PART):
            yield Changes(self.allowed[start : start + PART], [], {}, {})
        yield self._replace(allowed=[])


class Whole(NamedTuple):
    """Everything in a ledger at one moment."""

    decisions: list[Segment]
    failures: dict[str, Failures]
    suspensions: dict[str, Suspension]

    def parts(self) -> Iterator[Changes]:
        """The same as changes to an empty ledger, in such parts."""
        for segment in self.decisions:
            items = iter(segment.values())
            while part := list(islice(items, PART)):
                yield Changes(part, [], {}, {})
        failures = iter(self.failures.items())
        while some := dict(islice(failures, PART)):
            yield Changes([], [], some, {})
        suspensions = iter(self.suspensions.items())
        while held := dict(islice(suspensions, PART)):
            yield Changes([], [], {}, dict(held))


class Ledger:
    """The decisions of the last hour, the last outcomes of each agent, and suspensions; for the event loop alone."""

    def __init__(self) -> None:
        self.decisions = OpenDecisions()
        self.not_allowed = NotAllowed()
        """In memory only."""
        self.suspensions = Suspensions()
        self._failures: dict[str, Failures] = {}
        # Bounded, for a disk that hangs. A decision that is forgotten need not be written: at most `MAX_DECISIONS` are
        # remembered, and while one is, only they and as many before it can be reported.
        self._allowed: deque[Row] = deque(maxlen=MAX_DECISIONS)
        self._reported: deque[str] = deque(maxlen=2 * MAX_DECISIONS)
        self._changed_failures: dict[str, Failures] = {}
        self._changed_suspensions: dict[str, Suspension | None] = {}

    def allow(self, row: Row) -> None:
        """Remember a decision that allowed an action."""
        self.decisions.add(row)
        self._allowed.append(row)

    def report(self, decision_id: str, agent_id: str, activations: int, *, failed: bool) -> Failures:
        """Take the outcome of a decision; returns the last outcomes of the agent with it."""
        self.decisions.report(decision_id)
        failures = self._failures.get(agent_id, Failures()).after(activations, failed=failed)
        self._failures[agent_id] = self._changed_failures[agent_id] = failures
        self._reported.append(decision_id)
        return failures

    def suspend(self, suspension: Suspension) -> None:
        """Suspend an agent here."""
        self.suspensions.put(suspension)
        self._changed_suspensions[suspension.agent_id] = suspension

    def forget_suspension(self, agent_id: str) -> None:
        """Forget an earlier suspension of an agent."""
        self.suspensions.remove(agent_id)
        self._changed_suspensions[agent_id] = None

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        metrics.watch(
            "pdp_open_decisions",
            "Allows of the last hour whose outcome is awaited or known",
            lambda: len(self.decisions),
        )
        metrics.watch_total(
            "pdp_open_decisions_dropped",
            "Allows that settled at their estimate before their hour was over, to free memory",
            lambda: self.decisions.dropped,
        )

    def take(self, wall: float) -> Changes:
        """The changes since the last call; also drops decisions of more than an hour ago."""
        self.decisions.expire(wall)
        taken = Changes(list(self._allowed), list(self._reported), self._changed_failures, self._changed_suspensions)
        self._allowed.clear()
        self._reported.clear()
        self._changed_failures, self._changed_suspensions = {}, {}
        return taken

    def whole(self) -> Whole:
        """Copies of everything."""
        return Whole(self.decisions.segments(), self._failures.copy(), self.suspensions.all())

    def apply(self, changes: Changes) -> None:
        """Repeat changes that were read from the disk."""
        self.decisions.extend(changes.allowed)
        for decision_id in changes.reported:
            self.decisions.report(decision_id)
        self._failures |= changes.failures
        for agent_id, suspension in changes.suspensions.items():
            if suspension is None:
                self.suspensions.remove(agent_id)
            else:
                self.suspensions.put(suspension)


def to_json(changes: Changes) -> dict[str, Any]:
    """Changes as JSON, for `from_json`."""
    return {
        "allowed": changes.allowed,
        "reported": changes.reported,
        "failures": changes.failures,
        "suspensions": {
            agent_id: None if one is None else one._replace(trigger=one.trigger.value)  # type: ignore[arg-type]
            for agent_id, one in changes.suspensions.items()
        },
    }


def from_json(document: Mapping[str, Any]) -> Changes:
    """Changes from JSON; `ValueError`, `TypeError` or `LookupError` if it is not what `to_json` makes."""
    return Changes(
        [_row(row) for row in document["allowed"]],
        document["reported"],
        {agent_id: Failures(*values) for agent_id, values in document["failures"].items()},
        {
            agent_id: None if values is None else _suspension(*values)
            for agent_id, values in document["suspensions"].items()
        },
    )


def _row(members: list[Any]) -> Row:
    decision_id, agent_id, zone, at, cost_micros, approval_id, reported = members
    # Thousands of decisions share an agent and a zone, which JSON repeats.
    return decision_id, intern(agent_id), intern(zone), at, cost_micros, approval_id, reported


def _suspension(agent_id: str, activations: int, trigger: str, figures: Mapping[str, Any], at: float) -> Suspension:
    return Suspension(agent_id, activations, Trigger(trigger), figures, at)
