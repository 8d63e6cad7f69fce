"""The gRPC servicer and the JSON door: read, decide, charge, answer; nothing awaits from the first to the last."""

import json
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

import grpc

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
from pdp.metrics import Metrics
from pdp.state import Holder, State
from pdp.v1 import decision_pb2 as pb

log = logging.getLogger(__name__)

SERVICE = "pdp.v1.PolicyDecisionPoint"


class NoRegistryDataError(Exception):
    """There is nothing to decide from yet."""


class DecisionService:
    """Decides from the state that `holder` has in force, and keeps what each agent has used."""

    def __init__(
        self, holder: Holder, metrics: Metrics, clock: Callable[[], Now], random_bits: Callable[[int], int]
    ) -> None:
        self._holder = holder
        self._metrics = metrics
        self._clock = clock
        self._ids = DecisionIds(random_bits)
        self._usage: dict[str, Usage] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server needs to serve `pdp.v1.PolicyDecisionPoint`.

        Messages come and go as bytes: a malformed one is then answered here, with INVALID_ARGUMENT.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE, {"Evaluate": grpc.unary_unary_rpc_method_handler(self._evaluate)}
        )

    def evaluate_json(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The JSON door: an HTTP status, and the answer or a problem (RFC 9457)."""
        try:
            return 200, wire.answer_json(self.evaluate(_request_from_json(body)))
        except InvalidAction as error:
            self._metrics.refused(error.problems[0].path)
            return 400, _problem(400, "Invalid request", str(error)) | {
                "errors": [problem._asdict() for problem in error.problems]
            }
        except NoRegistryDataError as error:
            self._metrics.unavailable()
            return 503, _problem(503, "No registry data", str(error))

    def evaluate(self, request: wire.Request) -> pb.EvaluateResponse:
        """One decision. Raises `InvalidAction` for a malformed request, `NoRegistryDataError` before the first sync."""
        started = perf_counter()
        if request.approval_id:
            raise InvalidAction(Problem("approval_id", "approvals are not part of this version"))
        action = request.action
        state = self._holder.current
        if state is None:
            raise NoRegistryDataError("no registry data has come in yet")
        answer = self._answer(state, action, request.dry_run)
        self._metrics.decided(action.agent_id, Outcome(answer.outcome), Reason(answer.reason), perf_counter() - started)
        return answer

    def _answer(self, state: State, action: Action, dry_run: bool) -> pb.EvaluateResponse:
        now = self._clock()
        agent = state.agents.get(action.agent_id)
        if agent is None:
            _check_agent_id(action.agent_id)
        usage = self._usage.get(action.agent_id) or Usage()
        decision = self._decided(state, agent, action, usage, now)
        if agent is not None and not dry_run:
            self._usage[action.agent_id] = usage
            charge(agent, usage, decision, now)
        answer = wire.write_decision(decision)
        answer.message = message(agent, action, decision)
        answer.decision_id = self._ids.next(now.wall)
        answer.registry_revision = state.revision
        answer.staleness = max(0.0, now.boot - self._holder.confirmed_at)
        answer.source = self._holder.source.value  # type: ignore[assignment]  # see `wire.write_decision`
        if agent is not None:
            answer.agent_version = agent.version
            wire.write_remaining(answer, usage.remaining(agent.limits, now.boot), _budget_left(agent, usage, now))
        return answer

    def _decided(self, state: State, agent: CompiledAgent | None, action: Action, usage: Usage, now: Now) -> Decision:
        try:
            return decide(agent, state.servers, action, usage, now)
        except Exception:
            log.exception("deciding for agent %s failed", action.agent_id)
            self._metrics.internal_error()
            return Decision(Outcome.BLOCK, Reason.INTERNAL_ERROR)

    async def _evaluate(self, raw: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        self._metrics.in_flight.inc()
        try:
            return self.evaluate(wire.read_request(wire.parse(pb.EvaluateRequest, raw))).SerializeToString()
        except InvalidAction as error:
            self._metrics.refused(error.problems[0].path)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NoRegistryDataError as error:
            self._metrics.unavailable()
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            self._metrics.in_flight.dec()


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


def _request_from_json(body: bytes) -> wire.Request:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidAction(Problem("request", f"is not JSON: {error}")) from None
    return wire.read_json_request(document)


def _problem(status: int, title: str, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}
