"""Decides one request: read the state, decide, charge, log, answer; there is no await in between."""

import logging
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, Protocol

from pdp import asking, wire
from pdp.approvals import UseStatus
from pdp.asking import ASKS_NOBODY, NOTHING_KNOWN, Approving, Asking, PendingUnknownError
from pdp.core.action import AGENT_ID, Action, OutcomeReport
from pdp.core.compile import CompiledAgent
from pdp.core.decide import ALLOW, BLOCK, approval_helps, decide, withdrawn
from pdp.core.decision import Decision
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.ids import DecisionIds
from pdp.core.localtime import local_time
from pdp.core.messages import message
from pdp.core.model import Now, Outcome, Reason, StaleMode
from pdp.core.usage import Usage
from pdp.counters.counters import Counters
from pdp.decision_log.record import Entry, Note, Opens
from pdp.idempotency import Answers, Remembered, TooManyRepeatsError
from pdp.metrics import Metrics
from pdp.outcomes.ledger import Ledger
from pdp.settlement import Settlement
from pdp.state import Holder, State
from pdp.suspender import Suspender
from pdp.v1 import decision_pb2 as pb
from pdp.wire.answers import NO_LIMITS, Answer

# A member of an enum costs more than a global name to look up.
APPROVED, POLICY_MATCHED = Reason.APPROVED, Reason.POLICY_MATCHED

logger = logging.getLogger(__name__)


class UnavailableError(Exception):
    """No decision can be made now; the text says why."""


class NoRegistryDataError(UnavailableError):
    """The sidecar has no registry data yet."""


class LogFullError(UnavailableError):
    """The decision log is full and `--log-full` is `block`."""


class Log(Protocol):
    """The decision log: while `full`, no decision may be made; while `crowded`, callers await `room` first."""

    full: bool
    crowded: bool

    async def room(self) -> None:
        """Return once there is room for another decision, or waiting has not helped."""

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Keep a decision or a note; an urgent one is sent to the store at once."""


class Evaluation(NamedTuple):
    """The input of one decision, and its answer."""

    state: State
    action: Action
    usage: Usage
    now: Now
    stale: StaleMode | None
    answer: bytes
    """A serialized `EvaluateResponse`."""
    suspended: bool
    """Whether this sidecar suspended the agent, and the registry data does not say so yet."""


class DecisionPoint:
    """Decides from the state in force in `holder`, counts usage in `counters`, and remembers allows in `ledger`."""

    def __init__(
        self,
        holder: Holder,
        metrics: Metrics,
        clock: Callable[[], Now],
        log: Log,
        counters: Counters | None = None,
        *,
        ledger: Ledger | None = None,
    ) -> None:
        self._holder = holder
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._ids = DecisionIds(secrets.randbits)
        self._counters = counters or Counters()
        self._ledger = ledger or Ledger()
        self._suspensions = self._ledger.suspensions
        self.suspender = Suspender(self._ledger, log, metrics)
        self.settlement = Settlement(
            holder, clock, log, metrics, counters=self._counters, ledger=self._ledger, suspender=self.suspender
        )
        self.answers = Answers()

    def evaluate(self, request: wire.Request, approving: Approving = NOTHING_KNOWN) -> bytes:
        """The serialized `EvaluateResponse`, given what is known of approvals.

        Raises `InvalidActionError` for a malformed request, `UnavailableError` while no decision can be made,
        `TooManyRepeatsError` if an idempotency key is repeated too often, and `PendingUnknownError` if `approving` asks
        for it.
        """
        started = perf_counter()
        state, now, action = self._loggable_state(), self._clock(), request.action
        try:
            decide_as = self._decide_once if request.idempotency_key and not request.dry_run else self._decide
            made = decide_as(state, request, now, approving)
        except (InvalidActionError, TooManyRepeatsError, PendingUnknownError):
            raise
        except Exception:
            logger.exception("deciding for agent %s failed, so its action is blocked", action.agent_id)
            self._metrics.internal_error()
            made = self._made(state, None, action, _INTERNAL_ERROR, now)
        answer, decision, _, _, opens, repeat_id = made
        cost_micros = 0 if request.dry_run else decision.cost_micros
        seconds = perf_counter() - started
        self._metrics.decided(action.agent_id, decision.outcome, decision.reason, seconds, cost_micros)
        if decision.policy is not None or decision.shadow:
            self._metrics.policies.add(decision)
        raw, has_attributes = request.raw or wire.write_request(request), bool(action.attributes)
        recorded = (raw, answer, now.wall, seconds, cost_micros, opens, repeat_id, has_attributes)
        self._log.append(_NEW(Entry, recorded), urgent=opens is not None)
        if not repeat_id:
            self._remember(request, made, now)
        return answer

    def report(self, report: OutcomeReport) -> bool:
        """Take the outcome of an action; whether it repeats one, and so changes nothing.

        Raises `RefusedOutcomeError` if it is not taken, and `UnavailableError` while nothing can be recorded.
        """
        self._loggable_state()
        return self.settlement.report(report)

    def needs_approval(self, request: wire.Request) -> bool:
        """Whether the action would need an approval if it were decided now; `evaluate` reports any error."""
        state, now, action = self._loggable_state(), self._clock(), request.action
        agent = self._agent(state, action.agent_id)
        if agent is None or self._remembered(request, now) is not None:
            return False
        usage = self._counters.of(action.agent_id, agent.zone, now.boot)
        try:
            return approval_helps(decide(agent, state.servers, action, usage, now, stale=self._holder.stale(now.boot)))
        except Exception:
            return False

    def serves(self, agent_id: str) -> bool:
        """Whether this sidecar decides for this agent; `UnavailableError` while it has no registry data."""
        return agent_id in self._state().agents

    def evaluation(self, action: Action) -> Evaluation:
        """The input and the answer of a decision made now, for `explain`; counts nothing."""
        state, now = self._state(), self._clock()
        made = self._decide(state, wire.Request(action, dry_run=True), now, NOTHING_KNOWN)
        agent = state.agents.get(action.agent_id)
        suspended = agent is not None and self._agent(state, action.agent_id) is not agent
        usage = _NO_USAGE if agent is None else self._counters.of(action.agent_id, agent.zone, now.boot)
        return Evaluation(state, action, usage.copy(), now, self._holder.stale(now.boot), made.answer, suspended)

    def _agent(self, state: State, agent_id: str) -> CompiledAgent | None:
        """The agent, suspended if this sidecar has suspended it."""
        agent = state.agents.get(agent_id)
        return self._suspensions.applied(agent) if self._suspensions.by_agent and agent is not None else agent

    def _remember(self, request: wire.Request, made: "_Made", now: Now) -> None:
        """Remember the decision for the report of how its action ended."""
        decision, agent = made.decision, made.agent
        if decision.outcome is ALLOW and agent is not None and not request.dry_run:
            approval_id = request.approval_id if decision.reason is APPROVED else ""
            row = (made.decision_id, agent.agent_id, agent.zone, now.wall, decision.cost_micros, approval_id)
            self._ledger.allow(row)
            return
        why = "a dry run" if request.dry_run else _QUOTED[decision.outcome]
        self._ledger.not_allowed.add(made.decision_id, request.action.agent_id, why)

    def _loggable_state(self) -> State:
        if self._log.full:
            raise LogFullError("the decision log is full and `--log-full` is `block`")
        return self._holder.current or self._state()

    def _state(self) -> State:
        state = self._holder.current
        if state is None:
            raise NoRegistryDataError("no registry data has arrived yet")
        return state

    def _decide_once(self, state: State, request: wire.Request, now: Now, approving: Approving) -> "_Made":
        """The answer under an idempotency key: the first one again, if the action is the same and still permitted."""
        remembered = self._remembered(request, now)
        if remembered is None:
            made = self._decide(state, request, now, approving)
            if made.decision.reason is not Reason.AGENT_NOT_REGISTERED:  # it may register itself and ask again
                kept = wire.fingerprint(request)
                self.answers.put(request.action.agent_id, _key(request), kept, made.answer, now.boot)
            return made
        if not wire.asks_the_same(remembered.request, request):
            raise InvalidActionError(Problem("idempotency_key", "was used for another action within ten minutes"))
        answer = self.answers.repeat(remembered, now.boot)
        first = pb.EvaluateResponse.FromString(answer)
        decision = Decision(Outcome(first.outcome), Reason(first.reason))
        replacement = self._replacement(state, request.action, decision, now)
        return replacement or _Made(answer, decision, first.decision_id, repeat_id=self._ids.next(now.wall))

    def _replacement(self, state: State, action: Action, first: Decision, now: Now) -> "_Made | None":
        """The answer that replaces a remembered one if the action is no longer permitted."""
        if first.outcome is BLOCK:
            return None
        agent = self._agent(state, action.agent_id)
        decision = withdrawn(agent, state.servers, action, now, stale=self._holder.stale(now.boot))
        if decision is None:
            return None
        return self._made(state, agent, action, decision, now)

    def _remembered(self, request: wire.Request, now: Now) -> Remembered | None:
        if not request.idempotency_key or request.dry_run:
            return None
        return self.answers.get(request.action.agent_id, _key(request), now.boot)

    def _decide(self, state: State, request: wire.Request, now: Now, approving: Approving) -> "_Made":
        action, stale = request.action, self._holder.stale(now.boot)
        agent = self._agent(state, action.agent_id)
        if agent is None:
            _check_agent_id(action.agent_id)
            decision = decide(None, state.servers, action, _NO_USAGE, now, stale=stale)
            return self._made(state, None, action, decision, now)
        use, usage = approving.use, self._counters.of(action.agent_id, agent.zone, now.boot)
        approved = use is not None and use.status is UseStatus.GRANTED
        decision = decide(agent, state.servers, action, usage, now, approved=approved, stale=stale)
        told = ASKS_NOBODY
        if use is not None:
            decision = asking.checked(decision, use)
            told = asking.used(agent, action, decision, use)
        elif decision.outcome is not ALLOW and not request.dry_run:
            told = asking.asked(agent, action, decision, now, approving=approving, next_id=self._ids.next)
        if not request.dry_run:
            self._counters.charge(action.agent_id, usage, decision, now.boot)
            if decision.outcome is BLOCK:
                self.suspender.refused(agent, action, decision, usage, now)
            elif self._suspensions.by_agent:
                self.suspender.admitted(agent, decision)
        return self._made(state, agent, action, decision, now, usage=usage, told=told)

    def _made(
        self,
        state: State,
        agent: CompiledAgent | None,
        action: Action,
        decision: Decision,
        now: Now,
        *,
        usage: Usage | None = None,
        told: Asking = ASKS_NOBODY,
    ) -> "_Made":
        """The decision with its answer, whole; with what is left of the limits if the agent is registered."""
        text, awaited, opens = told
        if not text and decision.reason is not POLICY_MATCHED:
            text = message(agent, action, decision)
        version, remaining, budget_micros = "", NO_LIMITS, None
        if agent is not None:
            usage = usage or self._counters.of(action.agent_id, agent.zone, now.boot)
            version, remaining = agent.version, usage.remaining(agent.limits, now.boot)
            budget_micros = _budget_left(agent, usage, decision.day or local_time(agent.zone, now.wall).day)
        holder, decision_id = self._holder, self._ids.next(now.wall)
        staleness = holder.staleness(now.boot)
        answer = Answer(
            decision,
            decision_id,
            text,
            state.revision,
            holder.source,
            staleness,
            version,
            remaining,
            budget_micros,
            awaited,
        )
        return _NEW(_Made, (wire.write_answer(answer), decision, decision_id, agent, opens, ""))


class _Made(NamedTuple):
    """A decision and its serialized answer; the id of its record if the answer is a repeat."""

    answer: bytes
    decision: Decision
    decision_id: str
    agent: CompiledAgent | None = None
    opens: Opens | None = None
    repeat_id: str = ""


_NEW = tuple.__new__
"""Makes a named tuple of a tuple in half the time of its class."""
_NO_USAGE = Usage()
_INTERNAL_ERROR = Decision(BLOCK, Reason.INTERNAL_ERROR)
_QUOTED = {outcome: f"`{outcome.name.lower()}`" for outcome in Outcome}


def _key(request: wire.Request) -> str:
    # With an approval the request counts as a new one, because its first answer was to wait.
    return f"{request.idempotency_key}\n{request.approval_id}" if request.approval_id else request.idempotency_key


def _budget_left(agent: CompiledAgent, usage: Usage, day: int) -> int | None:
    if agent.budget_micros is None:
        return None
    left = agent.budget_micros - usage.spent(day)
    return left if left > 0 else 0


def _check_agent_id(agent_id: str) -> None:
    # Only for an unregistered agent: those in the registry have passed this check.
    problems = Problems()
    AGENT_ID.read(agent_id, "action.agent_id", problems)
    if problems:
        raise InvalidActionError(*problems)
