"""Decides one request: read the state, decide, charge, log, answer; there is no await in between."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple, Protocol

from pdp import wire
from pdp.approvals import ApprovalUse, Pending, Question, UseStatus
from pdp.core.action import AGENT_ID, Action, OutcomeReport
from pdp.core.compile import CompiledAgent
from pdp.core.decide import NEEDS_APPROVAL, approval_helps, decide, withdrawn
from pdp.core.decision import Decision
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.fields import quote
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

APPROVAL_SECONDS = 3600
"""The time to decide on an approval if the policy does not set one."""

logger = logging.getLogger(__name__)


class UnavailableError(Exception):
    """No decision can be made now; the text says why."""


class NoRegistryDataError(UnavailableError):
    """The sidecar has no registry data yet."""


class LogFullError(UnavailableError):
    """The decision log is full and `--log-full` is `block`."""


class PendingUnknownError(Exception):
    """The action needs a person: first find out whether people are asked `question` already. Nothing was counted."""

    def __init__(self, question: Question) -> None:
        super().__init__("whether an approval of the action is pending is not known yet")
        self.question = question


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
    answer: pb.EvaluateResponse
    suspended: bool
    """Whether this sidecar suspended the agent, and the registry data does not say so yet."""


class Approving(NamedTuple):
    """What is known of approvals before a decision.

    `use` is the use of the approval in the request, if its action needs one; `pending` is the approval that the
    question of the action has already. With `asks_first` and without `pending`, an action that needs a person raises
    `PendingUnknownError`.
    """

    use: ApprovalUse | None = None
    pending: Pending | None = None
    asks_first: bool = False


NOTHING_KNOWN = Approving()
ASKS_FIRST = Approving(asks_first=True)


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

    def evaluate(self, request: wire.Request, approving: Approving = NOTHING_KNOWN) -> pb.EvaluateResponse:
        """The answer, given what is known of approvals.

        Raises `InvalidActionError` for a malformed request, `UnavailableError` while no decision can be made,
        `TooManyRepeatsError` if an idempotency key is repeated too often, and `PendingUnknownError` if `approving` asks
        for it.
        """
        started = perf_counter()
        state, now = self._loggable_state(), self._clock()
        result = self._decide_or_block(state, request, now, approving)
        seconds, answer = perf_counter() - started, result.answer
        self._metrics.decided(request.action.agent_id, answer.outcome, answer.reason, seconds)
        if (decision := result.decision) is not None and (decision.policy is not None or decision.shadow):
            self._metrics.policies.add(decision)
        if result.cost_micros:
            self._metrics.charged(request.action.agent_id, result.cost_micros)
        entry = Entry(
            request.raw or wire.write_request(request),
            answer.SerializeToString(),
            now.wall,
            seconds,
            result.cost_micros,
            result.opens,
            result.repeat_id,
            bool(request.action.attributes),
        )
        self._log.append(entry, urgent=result.opens is not None)
        if not result.repeat_id:
            self._remember(request, result, now)
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
        result = self._decide(state, wire.Request(action, dry_run=True), now, NOTHING_KNOWN)
        agent = state.agents.get(action.agent_id)
        suspended = agent is not None and self._agent(state, action.agent_id) is not agent
        usage = _NO_USAGE if agent is None else self._counters.of(action.agent_id, agent.zone, now.boot)
        return Evaluation(state, action, usage.copy(), now, self._holder.stale(now.boot), result.answer, suspended)

    def _agent(self, state: State, agent_id: str) -> CompiledAgent | None:
        """The agent, suspended if this sidecar has suspended it."""
        agent = state.agents.get(agent_id)
        return self._suspensions.applied(agent) if self._suspensions.by_agent and agent is not None else agent

    def _remember(self, request: wire.Request, result: "_Result", now: Now) -> None:
        """Remember the decision for the report of how its action ended."""
        answer, agent = result.answer, result.agent
        if answer.outcome == pb.OUTCOME_ALLOW and agent is not None and not request.dry_run:
            approval_id = request.approval_id if answer.reason == pb.REASON_APPROVED else ""
            cost = result.cost_micros
            self._ledger.allow((answer.decision_id, agent.agent_id, agent.zone, now.wall, cost, approval_id, False))
            return
        why = "a dry run" if request.dry_run else _QUOTED[answer.outcome]
        self._ledger.not_allowed.add(answer.decision_id, request.action.agent_id, why)

    def _loggable_state(self) -> State:
        if self._log.full:
            raise LogFullError("the decision log is full and `--log-full` is `block`")
        return self._state()

    def _state(self) -> State:
        state = self._holder.current
        if state is None:
            raise NoRegistryDataError("no registry data has arrived yet")
        return state

    def _decide_or_block(self, state: State, request: wire.Request, now: Now, approving: Approving) -> "_Result":
        try:
            if request.idempotency_key and not request.dry_run:
                return self._decide_once(state, request, now, approving)
            return self._decide(state, request, now, approving)
        except (InvalidActionError, TooManyRepeatsError, PendingUnknownError):
            raise
        except Exception:
            logger.exception("deciding for agent %s failed, so its action is blocked", request.action.agent_id)
            self._metrics.internal_error()
            return _Result(self._base_answer(None, request.action, _INTERNAL_ERROR, state, now))

    def _decide_once(self, state: State, request: wire.Request, now: Now, approving: Approving) -> "_Result":
        """The answer under an idempotency key: the first one again, if the action is the same and still permitted."""
        digest = wire.digest(request.action)
        remembered = self._remembered(request, now)
        if remembered is None:
            result = self._decide(state, request, now, approving)
            if result.answer.reason != pb.REASON_AGENT_NOT_REGISTERED:  # it may register itself and ask again
                self.answers.put(
                    request.action.agent_id, _key(request), digest, result.answer.SerializeToString(), now.boot
                )
            return result
        if remembered.digest != digest:
            raise InvalidActionError(Problem("idempotency_key", "was used for another action within ten minutes"))
        answer = pb.EvaluateResponse.FromString(self.answers.repeat(remembered, now.boot))
        replacement = self._replacement(state, request.action, answer, now)
        return replacement or _Result(answer, repeat_id=self._ids.next(now.wall))

    def _replacement(self, state: State, action: Action, answer: pb.EvaluateResponse, now: Now) -> "_Result | None":
        """The answer that replaces a remembered one if the action is no longer permitted."""
        if answer.outcome == pb.OUTCOME_BLOCK:
            return None
        agent = self._agent(state, action.agent_id)
        decision = withdrawn(agent, state.servers, action, now, stale=self._holder.stale(now.boot))
        return None if decision is None else _Result(self._answer(agent, action, decision, state, now))

    def _remembered(self, request: wire.Request, now: Now) -> Remembered | None:
        if not request.idempotency_key or request.dry_run:
            return None
        return self.answers.get(request.action.agent_id, _key(request), now.boot)

    def _decide(self, state: State, request: wire.Request, now: Now, approving: Approving) -> "_Result":
        use = approving.use
        action, stale = request.action, self._holder.stale(now.boot)
        agent = self._agent(state, action.agent_id)
        if agent is None:
            _check_agent_id(action.agent_id)
            decision = decide(None, state.servers, action, _NO_USAGE, now, stale=stale)
            return _Result(self._answer(None, action, decision, state, now))
        usage = self._counters.of(action.agent_id, agent.zone, now.boot)
        decision = decide(
            agent, state.servers, action, usage, now, approved=_has_status(use, UseStatus.GRANTED), stale=stale
        )
        if _has_status(use, UseStatus.MISMATCH) and decision.outcome in NEEDS_APPROVAL:
            decision = replace(decision, outcome=Outcome.BLOCK, reason=Reason.APPROVAL_MISMATCH, mfa_required=False)
        question = None
        if use is None and not request.dry_run and approval_helps(decision):
            question = Question(action.agent_id, wire.digest(action), wire.demand_digest(decision))
            if approving.asks_first and approving.pending is None:
                raise PendingUnknownError(question)
        if not request.dry_run:
            self._counters.charge(action.agent_id, agent, usage, decision, now)
            if decision.outcome is Outcome.BLOCK:
                self.suspender.refused(agent, action, decision, usage, now)
            elif self._suspensions.by_agent:
                self.suspender.admitted(agent, decision)
        answer = self._answer(agent, action, decision, state, now)
        if use is not None:
            _attach_use(answer, decision, use)
        opens = None if question is None else self._attach_approval(answer, decision, question, now, approving.pending)
        return _Result(answer, agent, 0 if request.dry_run else decision.cost_micros, opens, "", decision)

    def _attach_approval(
        self, answer: pb.EvaluateResponse, decision: Decision, question: Question, now: Now, pending: Pending | None
    ) -> Opens | None:
        """Put into the answer the approval that it waits for: the pending one of the question, or a new one."""
        if pending is not None and pending.approval_id and pending.question == question:
            wire.write_approval(answer, pending.approval_id, pending.expires_at, pending=True)
            answer.message = f"{answer.message}; approval {quote(pending.approval_id)} of it is already pending"
            return None
        seconds = decision.policy.action_params.get("timeout_seconds") if decision.policy else None
        opens = Opens(self._ids.next(now.wall), question.action_sha256, seconds or APPROVAL_SECONDS)
        wire.write_approval(answer, opens.approval_id, now.wall + opens.timeout_seconds)
        return opens

    def _answer(
        self, agent: CompiledAgent | None, action: Action, decision: Decision, state: State, now: Now
    ) -> pb.EvaluateResponse:
        """The answer, with the remaining limits if the agent is registered."""
        answer = self._base_answer(agent, action, decision, state, now)
        if agent is not None:
            usage = self._counters.of(action.agent_id, agent.zone, now.boot)
            answer.agent_version = agent.version
            wire.write_remaining(answer, usage.remaining(agent.limits, now.boot), _budget_left(agent, usage, now))
        return answer

    def _base_answer(
        self, agent: CompiledAgent | None, action: Action, decision: Decision, state: State, now: Now
    ) -> pb.EvaluateResponse:
        answer = wire.write_decision(decision)
        answer.message = message(agent, action, decision)
        answer.decision_id = self._ids.next(now.wall)
        wire.write_provenance(answer, state.revision, self._holder.source, self._holder.staleness(now.boot))
        return answer


class _Result(NamedTuple):
    """An answer, its agent, its cost, the approval that it opens, and the id of the record if it is a repeat.

    `decision` is what was decided about a registered agent just now.
    """

    answer: pb.EvaluateResponse
    agent: CompiledAgent | None = None
    cost_micros: int = 0
    opens: Opens | None = None
    repeat_id: str = ""
    decision: Decision | None = None


_NO_USAGE = Usage()
_INTERNAL_ERROR = Decision(Outcome.BLOCK, Reason.INTERNAL_ERROR)
_QUOTED: dict[int, str] = {outcome: f"`{outcome.name.lower()}`" for outcome in Outcome}


def _attach_use(answer: pb.EvaluateResponse, decision: Decision, use: ApprovalUse) -> None:
    """Put into the answer who approved it, or why the approval in the request did not allow it."""
    if decision.reason is Reason.APPROVED:
        answer.message = use.message
    elif approval_helps(decision):
        wire.write_approval(answer, use.approval_id, use.expires_at, pending=use.pending)
        answer.message = f"{answer.message}; {use.message}"


def _key(request: wire.Request) -> str:
    # With an approval the request counts as a new one, because its first answer was to wait.
    return f"{request.idempotency_key}\n{request.approval_id}" if request.approval_id else request.idempotency_key


def _has_status(use: ApprovalUse | None, status: UseStatus) -> bool:
    return use is not None and use.status is status


def _budget_left(agent: CompiledAgent, usage: Usage, now: Now) -> int | None:
    if agent.budget_micros is None:
        return None
    return max(0, agent.budget_micros - usage.spent(local_time(agent.zone, now.wall).day))


def _check_agent_id(agent_id: str) -> None:
    # Only for an unregistered agent: those in the registry have passed this check.
    problems = Problems()
    AGENT_ID.read(agent_id, "action.agent_id", problems)
    if problems:
        raise InvalidActionError(*problems)
