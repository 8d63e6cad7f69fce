"""Takes the outcomes of actions: settles the budget, counts the error rate, and records them for the store."""

from collections.abc import Callable
from enum import Enum

from pdp import wire
from pdp.core.action import OutcomeReport
from pdp.core.compile import CompiledAgent
from pdp.core.fields import quote
from pdp.core.localtime import local_time
from pdp.core.model import Now, Result
from pdp.counters.counters import Counters
from pdp.decision_log.record import Note, NoteLog
from pdp.metrics import Metrics
from pdp.outcomes.ledger import Ledger
from pdp.outcomes.segments import Allowed
from pdp.state import Holder
from pdp.suspender import Suspender


class Refusal(Enum):
    """Why an outcome is not taken."""

    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    NOT_ALLOWED = "not_allowed"


class RefusedOutcomeError(Exception):
    """An outcome is not taken; the text says why."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


class Settlement:
    """Takes outcomes of the decisions in `ledger`."""

    def __init__(
        self,
        holder: Holder,
        clock: Callable[[], Now],
        log: NoteLog,
        metrics: Metrics,
        *,
        counters: Counters,
        ledger: Ledger,
        suspender: Suspender,
    ) -> None:
        self._holder = holder
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._counters = counters
        self._ledger = ledger
        self._suspender = suspender

    def report(self, report: OutcomeReport) -> bool:
        """Take an outcome; whether it repeats one, and so changes nothing. `RefusedOutcomeError` if it is not taken."""
        now = self._clock()
        allowed = self._ledger.decisions.get(report.decision_id, now.wall)
        if allowed is None:
            raise self._refusal(report)
        agent = self._served(report, allowed.agent_id)
        if allowed.reported:
            return True
        if report.actual_cost_micros is not None:
            difference = report.actual_cost_micros - allowed.cost_micros
            # On the day of the decision, in the zone that it was charged in.
            self._counters.settle(allowed.agent_id, local_time(allowed.zone, allowed.at).day, difference)
        self._take(report, allowed, agent, now)
        return False

    def _take(self, report: OutcomeReport, allowed: Allowed, agent: CompiledAgent, now: Now) -> None:
        failed = report.result is Result.FAILED
        self._metrics.outcome(report.result.name.lower())
        failures = self._ledger.report(report.decision_id, agent.agent_id, agent.activations, failed=failed)
        # The store adds up the failures at all sidecars, and people see what became of what they approved.
        is_watched = agent.triggers is not None and agent.triggers.error_rate is not None
        urgent = failed and (is_watched or bool(allowed.approval_id))
        self._log.append(_note(report, allowed, agent, now), urgent=urgent)
        self._suspender.reported(agent, failures, now)

    def _served(self, report: OutcomeReport, agent_id: str) -> CompiledAgent:
        """The agent of the decision; refuses if the caller names another one, or this sidecar does not serve it."""
        state = self._holder.current
        agent = None if state is None else state.agents.get(agent_id)
        if agent is None or report.agent_id not in ("", agent_id):
            raise _foreign(report)
        return agent

    def _refusal(self, report: OutcomeReport) -> RefusedOutcomeError:
        known = self._ledger.not_allowed.get(report.decision_id)
        if known is None:
            message = f"no decision {quote(report.decision_id)} was made here within the last hour"
            return RefusedOutcomeError(Refusal.UNKNOWN, message)
        agent_id, why = known
        if report.agent_id not in ("", agent_id):
            return _foreign(report)
        return RefusedOutcomeError(
            Refusal.NOT_ALLOWED, f"decision {quote(report.decision_id)} takes no outcome: it is {why}"
        )


def _foreign(report: OutcomeReport) -> RefusedOutcomeError:
    return RefusedOutcomeError(
        Refusal.FOREIGN, f"decision {quote(report.decision_id)} is of an agent that this caller may not report for"
    )


def _note(report: OutcomeReport, allowed: Allowed, agent: CompiledAgent, now: Now) -> Note:
    return Note(
        "outcome",
        {
            "decision_id": report.decision_id,
            "agent_id": allowed.agent_id,
            "activations": agent.activations,
            "approval_id": allowed.approval_id,
            "decided_at": wire.instant(allowed.at),
            "reported_at": wire.instant(now.wall),
            "result": report.result.name.lower(),
            "charged_micros": allowed.cost_micros,
            "actual_cost_micros": report.actual_cost_micros,
            "error": report.error,
        },
    )
