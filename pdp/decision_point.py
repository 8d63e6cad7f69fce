"""One request decided: read the state, decide, charge, log, answer; nothing awaits, so nothing comes between."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple, Protocol

from pdp import wire
from pdp.approvals import Given, Verdict
from pdp.core.compile import CompiledAgent
from pdp.core.decide import NEEDING_A_PERSON, approval_helps, decide, withdrawn
from pdp.core.decision import Decision
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.ids import DecisionIds
from pdp.core.localtime import local_time
from pdp.core.messages import message
from pdp.core.model import Action, Now, Outcome, Reason, StaleMode
from pdp.core.records import AGENT_ID
from pdp.core.usage import Usage
from pdp.counters.counters import Counters
from pdp.decision_log.record import Entry, Opens
from pdp.idempotency import Answers, Remembered, TooManyRepeatsError
from pdp.metrics import Metrics
from pdp.state import Holder, State
from pdp.v1 import decision_pb2 as pb

APPROVAL_SECONDS = 3600
"""How long people have to decide where no policy says."""

logger = logging.getLogger(__name__)


class UnavailableError(Exception):
    """No decision can be made now; the text says why."""


class NoRegistryDataError(UnavailableError):
    """There is nothing to decide from yet."""


class LogFullError(UnavailableError):
    """The decision log has no room, and may lose nothing."""


class Log(Protocol):
    """Where decisions are kept; while it is `full`, none may be made, and while it is `crowded`, `room` is awaited."""

    full: bool
    crowded: bool

    async def room(self) -> None:
        """Return once there is room for another decision, or waiting has not helped."""

    def append(self, entry: Entry, *, urgent: bool) -> None:
        """Keep a decision; an urgent one is sent to the store at once."""


class Question(NamedTuple):
    """What one decision is made from, and its answer."""

    state: State
    action: Action
    usage: Usage
    now: Now
    stale: StaleMode | None
    answer: pb.EvaluateResponse


class DecisionPoint:
    """Decides from the state that `holder` has in force, and counts in `counters` what each agent has used."""

    def __init__(
        self, holder: Holder, metrics: Metrics, clock: Callable[[], Now], log: Log, counters: Counters | None = None
    ) -> None:
        self._holder = holder
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._ids = DecisionIds(secrets.randbits)
        self._counters = counters or Counters()
        self.answers = Answers()

    def evaluate(self, request: wire.Request, given: Given | None = None) -> pb.EvaluateResponse:
        """The answer; `given` is the approval that came with the request, if its action needs one.

        Raises `InvalidActionError` for a malformed request, `UnavailableError` while no decision can be made, and
        `TooManyRepeatsError` for one repeat too many of an idempotency key.
        """
        started = perf_counter()
        state, now = self._loggable_state(), self._clock()
        made = self._made(state, request, now, given)
        seconds, answer = perf_counter() - started, made.answer
        self._metrics.decided(request.action.agent_id, Outcome(answer.outcome), Reason(answer.reason), seconds)
        entry = Entry(
            request.action,
            answer,
            now.wall,
            seconds,
            request.dry_run,
            request.idempotency_key,
            request.approval_id,
            made.cost_micros,
            made.opens,
            made.repeat_id,
        )
        self._log.append(entry, urgent=made.opens is not None)
        return answer

    def needs_a_person(self, request: wire.Request) -> bool:
        """Whether the action would wait for a person if it were decided now; what raises here is for `evaluate`."""
        state, now, action = self._loggable_state(), self._clock(), request.action
        agent = state.agents.get(action.agent_id)
        if agent is None or self._remembered(request, now) is not None:
            return False
        usage = self._counters.of(action.agent_id, agent.zone, now.boot)
        try:
            return approval_helps(decide(agent, state.servers, action, usage, now, stale=self._holder.stale(now.boot)))
        except Exception:
            return False

    def serves(self, agent_id: str) -> bool:
        """Whether decisions are made here for this agent; `UnavailableError` while there is nothing to decide from."""
        return agent_id in self._state().agents

    def question(self, action: Action) -> Question:
        """All that the decision on an action would be made from now, for `explain`, and its answer; counts nothing."""
        state, now = self._state(), self._clock()
        made = self._decided(state, wire.Request(action, dry_run=True), now, None)
        agent = state.agents.get(action.agent_id)
        usage = _UNUSED if agent is None else self._counters.of(action.agent_id, agent.zone, now.boot)
        return Question(state, action, usage.copy(), now, self._holder.stale(now.boot), made.answer)

    def _loggable_state(self) -> State:
        if self._log.full:
            raise LogFullError("the decision log is full, and may lose nothing")
        return self._state()

    def _state(self) -> State:
        state = self._holder.current
        if state is None:
            raise NoRegistryDataError("no registry data has come in yet")
        return state

    def _made(self, state: State, request: wire.Request, now: Now, given: Given | None) -> "_Made":
        try:
            if request.idempotency_key and not request.dry_run:
                return self._once(state, request, now, given)
            return self._decided(state, request, now, given)
        except (InvalidActionError, TooManyRepeatsError):
            raise
        except Exception:
            logger.exception("deciding for agent %s failed, so its action is blocked", request.action.agent_id)
            self._metrics.internal_error()
            return _Made(self._finished(None, request.action, _INTERNAL_ERROR, state, now))

    def _once(self, state: State, request: wire.Request, now: Now, given: Given | None) -> "_Made":
        """The answer under an idempotency key: the first one again, if the action is the same and may still be done."""
        digest = wire.digest(request.action)
        remembered = self._remembered(request, now)
        if remembered is None:
            made = self._decided(state, request, now, given)
            self.answers.put(request.action.agent_id, _key(request), digest, made.answer.SerializeToString(), now.boot)
            return made
        if remembered.digest != digest:
            raise InvalidActionError(Problem("idempotency_key", "was used for another action within ten minutes"))
        answer = pb.EvaluateResponse.FromString(self.answers.repeat(remembered, now.boot))
        instead = self._withdrawn(state, request.action, answer, now)
        return instead or _Made(answer, repeat_id=self._ids.next(now.wall))

    def _withdrawn(self, state: State, action: Action, answer: pb.EvaluateResponse, now: Now) -> "_Made | None":
        """What is answered in place of a remembered answer, where the action may not be done any more."""
        if answer.outcome == pb.OUTCOME_BLOCK:
            return None
        agent = state.agents.get(action.agent_id)
        decision = withdrawn(agent, state.servers, action, now, stale=self._holder.stale(now.boot))
        return None if decision is None else _Made(self._answered(agent, action, decision, state, now))

    def _remembered(self, request: wire.Request, now: Now) -> Remembered | None:
        if not request.idempotency_key or request.dry_run:
            return None
        return self.answers.get(request.action.agent_id, _key(request), now.boot)

    def _decided(self, state: State, request: wire.Request, now: Now, given: Given | None) -> "_Made":
        action, stale = request.action, self._holder.stale(now.boot)
        agent = state.agents.get(action.agent_id)
        if agent is None:
            _check_agent_id(action.agent_id)
            decision = decide(None, state.servers, action, _UNUSED, now, stale=stale)
            return _Made(self._answered(None, action, decision, state, now))
        usage = self._counters.of(action.agent_id, agent.zone, now.boot)
        decision = decide(agent, state.servers, action, usage, now, approved=_is(given, Verdict.GRANTED), stale=stale)
        if _is(given, Verdict.MISMATCH) and decision.outcome in NEEDING_A_PERSON:
            decision = replace(decision, outcome=Outcome.BLOCK, reason=Reason.APPROVAL_MISMATCH, mfa_required=False)
        if not request.dry_run:
            self._counters.charge(action.agent_id, agent, usage, decision, now)
        answer = self._answered(agent, action, decision, state, now)
        opens = self._told_of_people(answer, request, decision, now, given)
        return _Made(answer, 0 if request.dry_run else decision.cost_micros, opens)

    def _told_of_people(
        self, answer: pb.EvaluateResponse, request: wire.Request, decision: Decision, now: Now, given: Given | None
    ) -> Opens | None:
        """Put into the answer who approved, or the approval that it waits for: the given one, or one that it opens."""
        if given is not None and decision.reason is Reason.APPROVED:
            answer.message = given.told
        if not approval_helps(decision):
            return None
        if given is not None:
            wire.write_approval(answer, given.approval_id, given.expires_at)
            answer.message = f"{answer.message}; {given.told}"
            return None
        if request.dry_run:
            return None
        seconds = decision.policy.action_params.get("timeout_seconds") if decision.policy else None
        opens = Opens(self._ids.next(now.wall), wire.digest(request.action), seconds or APPROVAL_SECONDS)
        wire.write_approval(answer, opens.approval_id, now.wall + opens.timeout_seconds)
        return opens

    def _answered(
        self, agent: CompiledAgent | None, action: Action, decision: Decision, state: State, now: Now
    ) -> pb.EvaluateResponse:
        """The answer, with what of its limits is left to an agent that is known."""
        answer = self._finished(agent, action, decision, state, now)
        if agent is not None:
            usage = self._counters.of(action.agent_id, agent.zone, now.boot)
            answer.agent_version = agent.version
            wire.write_remaining(answer, usage.remaining(agent.limits, now.boot), _budget_left(agent, usage, now))
        return answer

    def _finished(
        self, agent: CompiledAgent | None, action: Action, decision: Decision, state: State, now: Now
    ) -> pb.EvaluateResponse:
        answer = wire.write_decision(decision)
        answer.message = message(agent, action, decision)
        answer.decision_id = self._ids.next(now.wall)
        wire.write_provenance(answer, state.revision, self._holder.source, self._holder.staleness(now.boot))
        return answer


class _Made(NamedTuple):
    """An answer, what it charged, the approval that it opens, and the record's own id if it was given before."""

    answer: pb.EvaluateResponse
    cost_micros: int = 0
    opens: Opens | None = None
    repeat_id: str = ""


_UNUSED = Usage()
_INTERNAL_ERROR = Decision(Outcome.BLOCK, Reason.INTERNAL_ERROR)


def _key(request: wire.Request) -> str:
    # With an approval the same request is another one: its first answer was to wait.
    return f"{request.idempotency_key}\n{request.approval_id}" if request.approval_id else request.idempotency_key


def _is(given: Given | None, verdict: Verdict) -> bool:
    return given is not None and given.verdict is verdict


def _budget_left(agent: CompiledAgent, usage: Usage, now: Now) -> int | None:
    if agent.budget_micros is None:
        return None
    return max(0, agent.budget_micros - usage.spent(local_time(agent.zone, now.wall).day))


def _check_agent_id(agent_id: str) -> None:
    # Only for an agent that nobody registered: those in the registry have passed this check.
    problems = Problems()
    AGENT_ID.read(agent_id, "action.agent_id", problems)
    if problems:
        raise InvalidActionError(*problems)
