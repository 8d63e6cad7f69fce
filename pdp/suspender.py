"""Suspends agents at once in this sidecar, and reports it to the store, which suspends them everywhere."""

import logging
from collections.abc import Mapping
from typing import Any

from pdp import wire
from pdp.core.action import Action
from pdp.core.compile import CompiledAgent
from pdp.core.decision import Decision
from pdp.core.localtime import local_time
from pdp.core.model import Now, Reason, Trigger
from pdp.core.usage import UNKNOWN_ACTIONS, UNKNOWN_MICROS, Failures, Usage, is_too_high
from pdp.decision_log.record import Note, NoteLog
from pdp.metrics import Metrics
from pdp.outcomes.ledger import Ledger
from pdp.outcomes.suspensions import Suspension
from pdp.state import State

WINDOWS = ("minute", "hour", "day")
AGAIN_SECONDS = 30.0
"""A suspension is reported again after so long, if the store has not acted on it."""

logger = logging.getLogger(__name__)

Figures = Mapping[str, Any]


class Suspender:
    """Watches the triggers of agents, keeps suspensions in `ledger`, and reports them through `log`."""

    def __init__(self, ledger: Ledger, log: NoteLog, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ledger = ledger
        self._log = log

    def refused(self, agent: CompiledAgent, action: Action, decision: Decision, usage: Usage, now: Now) -> None:
        """Suspend the agent if this block for a limit is a trigger.

        It is none if the agent was suspended for the same, was activated again, and has not acted since.
        """
        triggers = agent.triggers
        if triggers is None:
            return
        if decision.reason is Reason.RATE_LIMIT_EXCEEDED and triggers.rate_exceeded:
            trigger, figures = Trigger.RATE_EXCEEDED, _rate(agent, usage, now)
        elif decision.reason is Reason.BUDGET_EXCEEDED and triggers.budget_exceeded:
            trigger, figures = Trigger.BUDGET_EXCEEDED, _budget(agent, action, usage, now)
        else:
            return
        earlier = self._ledger.suspensions.earlier(agent)
        if figures is not None and (earlier is None or earlier.trigger is not trigger):
            self._suspend(agent, trigger, figures, now)

    def admitted(self, agent: CompiledAgent, decision: Decision) -> None:
        """Note that the agent acts again after a suspension: from now on, a limit that it exceeds is a new cause."""
        earlier = self._ledger.suspensions.earlier(agent)
        if earlier is None or (earlier.trigger is Trigger.BUDGET_EXCEEDED and not decision.cost_micros):
            return
        self._ledger.forget_suspension(agent.agent_id)

    def reported(self, agent: CompiledAgent, failures: Failures, now: Now) -> None:
        """Suspend the agent if too many of its last outcomes are failures."""
        limit = None if agent.triggers is None else agent.triggers.error_rate
        if limit is None or not agent.active or self._ledger.suspensions.of(agent) is not None:
            return
        if is_too_high(failures.failed, failures.reported, limit):
            figures = {"failed": failures.failed, "reported": failures.reported, "limit": limit}
            self._suspend(agent, Trigger.ERROR_RATE, figures, now)

    def report_again(self, state: State) -> None:
        """Report each suspension on which the store has not acted."""
        for suspension in self._ledger.suspensions.all().values():
            agent = state.agents.get(suspension.agent_id)
            if agent is not None and agent.active and agent.activations == suspension.activations:
                self._log.append(_note(suspension), urgent=True)

    def _suspend(self, agent: CompiledAgent, trigger: Trigger, figures: Figures, now: Now) -> None:
        suspension = Suspension(agent.agent_id, agent.activations, trigger, figures, now.wall)
        self._metrics.suspended(trigger.value)
        self._ledger.suspend(suspension)
        self._log.append(_note(suspension), urgent=True)
        logger.warning("agent `%s` is suspended, trigger `%s`: %s", agent.agent_id, trigger.value, dict(figures))


def _note(suspension: Suspension) -> Note:
    members = suspension._asdict() | {"trigger": suspension.trigger.value, "at": wire.instant(suspension.at)}
    return Note("suspension", members)


def _rate(agent: CompiledAgent, usage: Usage, now: Now) -> Figures | None:
    """The first window whose limit is reached; None if its count is not known."""
    for name, window, limit in zip(WINDOWS, usage.windows, agent.limits, strict=True):
        actions = window.total_at(int(now.boot))
        if limit is not None and actions >= limit:
            return None if actions >= UNKNOWN_ACTIONS else {"window": name, "actions": actions, "limit": limit}
    return None


def _budget(agent: CompiledAgent, action: Action, usage: Usage, now: Now) -> Figures | None:
    """The budget, what of it is spent, and the cost that would exceed it; None if the spend is not known."""
    spent = usage.spent(local_time(agent.zone, now.wall).day)
    if spent >= UNKNOWN_MICROS:
        return None
    cost = action.estimated_cost_micros or 0
    return {"spent_micros": spent, "cost_micros": cost, "budget_micros": agent.budget_micros}
