"""One request decided: read the state, decide, charge, remember, answer; nothing awaits, so nothing comes between."""

import logging
import secrets
from collections.abc import Callable
from copy import deepcopy
from time import perf_counter
from typing import NamedTuple

from pdp import wire
from pdp.core.compile import CompiledAgent
from pdp.core.decide import charge, decide
from pdp.core.errors import InvalidAction, Problem
from pdp.core.ids import DecisionIds
from pdp.core.localtime import local_time
from pdp.core.messages import message
from pdp.core.model import Action, Decision, Now, Outcome, Reason
from pdp.core.records import AGENT_ID
from pdp.core.usage import Usage
from pdp.idempotency import Answers
from pdp.metrics import Metrics
from pdp.state import Holder, State
from pdp.v1 import decision_pb2 as pb

LEAST_SWEPT = 1024
"""So many agents may have counters before those that are idle are looked for."""

log = logging.getLogger(__name__)


class NoRegistryDataError(Exception):
    """There is nothing to decide from yet."""


class Question(NamedTuple):
    """What one decision is made from, and its answer."""

    state: State
    action: Action
    usage: Usage
    now: Now
    answer: pb.EvaluateResponse


class DecisionPoint:
    """Decides from the state that `holder` has in force, and keeps what each agent has used."""

    def __init__(self, holder: Holder, metrics: Metrics, clock: Callable[[], Now]) -> None:
        self._holder = holder
        self._metrics = metrics
        self._clock = clock
        self._ids = DecisionIds(secrets.randbits)
        self._usage: dict[str, Usage] = {}
        self._sweep_at = LEAST_SWEPT
        self.answers = Answers()

    def evaluate(self, request: wire.Request) -> pb.EvaluateResponse:
        """The answer. Raises `InvalidAction` for a malformed request, `NoRegistryDataError` before the first sync."""
        started = perf_counter()
        if request.approval_id:
            raise InvalidAction(Problem("approval_id", "approvals are not part of this version"))
        answer = self._answer(self._state(), request, self._clock())
        self._metrics.decided(
            request.action.agent_id, Outcome(answer.outcome), Reason(answer.reason), perf_counter() - started
        )
        return answer

    def question(self, action: Action) -> Question:
        """All that the decision on an action would be made from now, for `explain`, and its answer; counts nothing."""
        state, now = self._state(), self._clock()
        usage = deepcopy(self._usage.get(action.agent_id, _UNUSED))
        return Question(state, action, usage, now, self._decided(state, action, now, counts=False))

    def _state(self) -> State:
        state = self._holder.current
        if state is None:
            raise NoRegistryDataError("no registry data has come in yet")
        return state

    def _answer(self, state: State, request: wire.Request, now: Now) -> pb.EvaluateResponse:
        try:
            if request.idempotency_key and not request.dry_run:
                return self._once(state, request, now)
            return self._decided(state, request.action, now, counts=not request.dry_run)
        except InvalidAction:
            raise
        except Exception:
            log.exception("deciding for agent %s failed, so its action is blocked", request.action.agent_id)
            self._metrics.internal_error()
            return self._finished(None, request.action, _INTERNAL_ERROR, state, now)

    def _once(self, state: State, request: wire.Request, now: Now) -> pb.EvaluateResponse:
        """The answer under an idempotency key: the first one again, if the action is the same."""
        action, key = request.action, request.idempotency_key
        digest = wire.digest(action)
        remembered = self.answers.get(action.agent_id, key, now.boot)
        if remembered is None:
            answer = self._decided(state, action, now, counts=True)
            self.answers.put(action.agent_id, key, digest, answer.SerializeToString(), now.boot)
            return answer
        if remembered.digest != digest:
            raise InvalidAction(Problem("idempotency_key", "was used for another action within ten minutes"))
        return pb.EvaluateResponse.FromString(remembered.answer)

    def _decided(self, state: State, action: Action, now: Now, *, counts: bool) -> pb.EvaluateResponse:
        agent = state.agents.get(action.agent_id)
        if agent is None:
            _check_agent_id(action.agent_id)
            return self._finished(None, action, decide(None, state.servers, action, _UNUSED, now), state, now)
        usage = self._usage.get(action.agent_id) or self._new_usage(action.agent_id, now)
        decision = decide(agent, state.servers, action, usage, now)
        if counts:
            charge(agent, usage, decision, now)
        answer = self._finished(agent, action, decision, state, now)
        answer.agent_version = agent.version
        wire.write_remaining(answer, usage.remaining(agent.limits, now.boot), _budget_left(agent, usage, now))
        return answer

    def _new_usage(self, agent_id: str, now: Now) -> Usage:
        if len(self._usage) >= self._sweep_at:
            self._usage = {name: usage for name, usage in self._usage.items() if not usage.is_idle(now.boot)}
            self._sweep_at = max(LEAST_SWEPT, 2 * len(self._usage))
        usage = self._usage[agent_id] = Usage()
        return usage

    def _finished(
        self, agent: CompiledAgent | None, action: Action, decision: Decision, state: State, now: Now
    ) -> pb.EvaluateResponse:
        answer = wire.write_decision(decision)
        answer.message = message(agent, action, decision)
        answer.decision_id = self._ids.next(now.wall)
        staleness = max(0.0, now.boot - self._holder.confirmed_at)
        wire.write_provenance(answer, state.revision, self._holder.source, staleness)
        return answer


_UNUSED = Usage()
_INTERNAL_ERROR = Decision(Outcome.BLOCK, Reason.INTERNAL_ERROR)


def _budget_left(agent: CompiledAgent, usage: Usage, now: Now) -> int | None:
    if agent.budget_micros is None:
        return None
    return max(0, agent.budget_micros - usage.spent(local_time(agent.zone, now.wall).day))


def _check_agent_id(agent_id: str) -> None:
    # Only for an agent that nobody registered: those in the registry have passed this check.
    problems: list[Problem] = []
    AGENT_ID.read(agent_id, "action.agent_id", problems)
    if problems:
        raise InvalidAction(*problems)
