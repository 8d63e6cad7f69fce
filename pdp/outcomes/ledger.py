"""What reports of outcomes need, and the changes to it since the last write to disk."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from pdp.core.model import Trigger
from pdp.core.usage import Failures
from pdp.metrics import Metrics
from pdp.outcomes import blocks
from pdp.outcomes.blocks import Block, Row
from pdp.outcomes.open_decisions import MAX_DECISIONS, NotAllowed, OpenDecisions
from pdp.outcomes.segments import Recent
from pdp.outcomes.suspensions import Suspension, Suspensions

PART = 500


class Changes(NamedTuple):
    """Decisions that allowed, ids of reported ones, and the newest state of agents that changed; None: removed."""

    allowed: list[Block]
    reported: list[str]
    failures: dict[str, Failures]
    suspensions: dict[str, Suspension | None]

    def __bool__(self) -> bool:
        return any(self)

    def parts(self) -> Iterator["Changes"]:
        """The same in parts that take well under a millisecond to encode."""
        for block in self.allowed:
            yield Changes([block], [], {}, {})
        for start in range(PART, len(self.reported), PART):
            yield Changes([], self.reported[start : start + PART], {}, {})
        if self.reported or self.failures or self.suspensions:
            yield self._replace(allowed=[], reported=self.reported[:PART])


class Taken:
    """Changes on their way to the disk: the event loop takes them, and a thread packs their decisions."""

    def __init__(self, recents: list[Recent], others: Changes) -> None:
        self.packed: list[tuple[Recent, list[Block]]] = []
        self._recents = recents
        self._others = others

    def __bool__(self) -> bool:
        return bool(self._recents or self._others)

    def pack(self) -> Changes:
        """The changes, with packed decisions."""
        self.packed = [(recent, blocks.packed(list(recent.rows.values()), recent.marks())) for recent in self._recents]
        return self._others._replace(allowed=[block for _, made in self.packed for block in made])


class Whole(NamedTuple):
    """Everything in a ledger at one moment, but for decisions that the next `Ledger.take` gives."""

    decisions: list[Block]
    failures: dict[str, Failures]
    suspensions: dict[str, Suspension]

    def parts(self) -> Iterator[Changes]:
        """The same as changes to an empty ledger, in such parts."""
        for block in self.decisions:
            yield Changes([block], [], {}, {})
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
        # Bounded, for a disk that hangs: at most `MAX_DECISIONS` are remembered, and while one is, only they and as
        # many before it can be reported.
        self._reported: deque[str] = deque(maxlen=2 * MAX_DECISIONS)
        self._changed_failures: dict[str, Failures] = {}
        self._changed_suspensions: dict[str, Suspension | None] = {}

    def allow(self, row: Row) -> None:
        """Remember a decision that allowed an action."""
        self.decisions.add(row)

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

    def take(self, wall: float) -> Taken:
        """The changes since the last call; also drops decisions of more than an hour ago.

        `adopt` must follow before the next call; otherwise that gives the decisions again.
        """
        self.decisions.expire(wall)
        others = Changes([], list(self._reported), self._changed_failures, self._changed_suspensions)
        self._reported.clear()
        self._changed_failures, self._changed_suspensions = {}, {}
        return Taken(self.decisions.take(), others)

    def adopt(self, taken: Taken) -> None:
        """Keep decisions that were taken as they are packed, if they are."""
        for recent, made in taken.packed:
            self.decisions.adopt(recent, made)

    def whole(self) -> Whole:
        """Copies of everything, but for decisions that the next `take` gives."""
        return Whole(self.decisions.blocks(), self._failures.copy(), self.suspensions.all())

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


def encoded(changes: Changes) -> bytes:
    """Changes as JSON, for `from_json`.

    Programs of before `packed` expect a list of rows in `allowed`; they forget the decisions, and keep all else.
    """
    others = {
        "reported": changes.reported,
        "failures": changes.failures,
        "suspensions": {
            agent_id: None if one is None else one._replace(trigger=one.trigger.value)  # type: ignore[arg-type]
            for agent_id, one in changes.suspensions.items()
        },
    }
    packed = b",".join(map(blocks.encoded, changes.allowed))
    return b'{"allowed":[],"packed":[%s],%s' % (packed, json.dumps(others, separators=(",", ":")).encode()[1:])


def from_json(document: Mapping[str, Any], known: OpenDecisions) -> Changes:
    """Changes from JSON; `ValueError`, `TypeError`, `LookupError` or `OverflowError` if `encoded` does not make it.

    A program of before `packed` wrote rows in `allowed`, and repeated some that are `known`.
    """
    rows = [row for row in document["allowed"] if known.get(row[0], row[3]) is None]
    unpacked = blocks.packed([tuple(row[:6]) for row in rows], bytes(row[6] for row in rows))
    return Changes(
        unpacked + [blocks.from_json(block) for block in document.get("packed", ())],
        document["reported"],
        {agent_id: Failures(*values) for agent_id, values in document["failures"].items()},
        {
            agent_id: None if values is None else _suspension(*values)
            for agent_id, values in document["suspensions"].items()
        },
    )


def _suspension(agent_id: str, activations: int, trigger: str, figures: Mapping[str, Any], at: float) -> Suspension:
    return Suspension(agent_id, activations, Trigger(trigger), figures, at)
