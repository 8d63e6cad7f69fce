"""The doors of the decision point: the gRPC servicer, and JSON for people with curl.

gRPC messages come and go as bytes and are parsed here, so that malformed ones get INVALID_ARGUMENT with the field,
and one of them among many does not end a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from pdp import wire
from pdp.approvals import Approvals, Store, TooManyWaitingError
from pdp.core import strict_json
from pdp.core.errors import InvalidAction, Problem
from pdp.core.fields import quote
from pdp.core.model import Now
from pdp.decision_point import DecisionPoint, Log, UnavailableError
from pdp.explaining import explained
from pdp.metrics import Metrics
from pdp.state import Holder
from pdp.uplink import UnknownApprovalError
from pdp.v1 import decision_pb2 as pb

SERVICE = "pdp.v1.PolicyDecisionPoint"
MOST_BATCHED = 1000

Refused = (InvalidAction, UnavailableError)
Context = grpc.aio.ServicerContext[bytes, bytes]


class DecisionService:
    """`pdp.v1.PolicyDecisionPoint` over the state that `holder` has in force; decisions go to `log`."""

    def __init__(self, holder: Holder, metrics: Metrics, clock: Callable[[], Now], log: Log, store: Store) -> None:
        self.point = DecisionPoint(holder, metrics, clock, log)
        self.approvals = Approvals(store, clock)
        self._holder = holder
        self._clock = clock
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._explaining = asyncio.Semaphore(1)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server needs to serve the service."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Evaluate": grpc.unary_unary_rpc_method_handler(self._evaluate),
                "EvaluateBatch": grpc.unary_unary_rpc_method_handler(self._evaluate_batch),
                "EvaluateStream": grpc.stream_stream_rpc_method_handler(self._evaluate_stream),
                "Explain": grpc.unary_unary_rpc_method_handler(self._explain),
                "WaitForApproval": grpc.unary_stream_rpc_method_handler(self._wait_for_approval),
            },
        )

    def stop_waiting(self) -> None:
        """End every call that waits for an approval; it can be waited for at another sidecar."""
        self._stopping.set()

    def registry(self) -> dict[str, Any]:
        """How the registry data in force stands with the store, for the readiness probe."""
        boot = self._clock().boot
        return {"registry": self._holder.standing(boot), "staleness": round(self._holder.staleness(boot), 3)}

    async def evaluate_json(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The JSON door: an HTTP status, and the answer or a problem (RFC 9457)."""
        try:
            return 200, wire.answer_json(await self._decide(wire.read_json_request(_json(body))))
        except InvalidAction as error:
            self._metrics.refused(error.problems[0].path)
            problems = [problem._asdict() for problem in error.problems]
            return 400, _problem(400, "Invalid request", str(error)) | {"errors": problems}
        except UnavailableError as error:
            self._metrics.unavailable()
            return 503, _problem(503, "No decision now", str(error))

    async def _decide(self, request: wire.Request) -> pb.EvaluateResponse:
        """The answer; waits only for the store's word on an approval that came along and is needed."""
        if request.approval_id:
            given = await self.approvals.take(request) if self.point.needs_a_person(request) else None
            return self.point.evaluate(request, given)
        answer = self.point.evaluate(request)
        if answer.approval_id:
            self.approvals.opened(answer.approval_id, wire.read_moment(answer.approval_expires_at))
        return answer

    async def _evaluate(self, raw: bytes, context: Context) -> bytes:
        self._metrics.in_flight.inc()
        try:
            request = wire.read_request(wire.parse(pb.EvaluateRequest, raw))
            return (await self._decide(request)).SerializeToString()
        except Refused as error:
            await _abort(context, self._error(error))
        finally:
            self._metrics.in_flight.dec()

    async def _evaluate_batch(self, raw: bytes, context: Context) -> bytes:
        self._metrics.in_flight.inc()
        try:
            requests = wire.parse(pb.EvaluateBatchRequest, raw).requests
            if len(requests) > MOST_BATCHED:
                raise InvalidAction(Problem("requests", f"has more than {MOST_BATCHED} items"))
            results = [await self._result(request) for request in requests]
            return pb.EvaluateBatchResponse(results=results).SerializeToString()
        except Refused as error:
            await _abort(context, self._error(error))
        finally:
            self._metrics.in_flight.dec()

    async def _evaluate_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answers as requests come; while one waits to be read, gRPC's flow control holds back the next."""
        position = 0
        async for raw in requests:
            position += 1
            yield (await self._numbered(raw, position)).SerializeToString()

    async def _explain(self, raw: bytes, context: Context) -> bytes:
        """Explained in a thread, one at a time: it takes milliseconds, and decisions go first."""
        try:
            action = wire.read_action(wire.parse(pb.ExplainRequest, raw).action)
            async with self._explaining:
                answer = await asyncio.to_thread(explained, self.point.question(action))
            return answer.SerializeToString()
        except Refused as error:
            await _abort(context, self._error(error))

    async def _wait_for_approval(self, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            approval_id = wire.read_approval_id(wire.parse(pb.WaitForApprovalRequest, raw))
            async with aclosing(self.approvals.wait(approval_id)) as updates:
                while (update := await self._unless_stopping(updates)) is not None:
                    yield update.SerializeToString()
        except InvalidAction as error:
            await _abort(context, self._error(error))
        except UnknownApprovalError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"nobody has asked for approval {quote(approval_id)}")
        except TooManyWaitingError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except UnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _unless_stopping(self, updates: AsyncIterator[pb.ApprovalUpdate]) -> pb.ApprovalUpdate | None:
        """The next update, None after the last; `UnavailableError` as soon as the sidecar stops."""
        following = asyncio.ensure_future(anext(updates, None))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise UnavailableError("the sidecar is stopping")
            return following.result()
        finally:
            for task in (following, stopping):
                task.cancel()
            await asyncio.gather(following, stopping, return_exceptions=True)

    async def _numbered(self, raw: bytes, position: int) -> pb.EvaluateStreamResponse:
        """The answer to one message of a stream, under its own number or, where it has none, its position."""
        try:
            message = wire.parse(pb.EvaluateStreamRequest, raw)
        except InvalidAction as error:
            return pb.EvaluateStreamResponse(sequence=position, result=pb.EvaluateResult(error=self._error(error)))
        return pb.EvaluateStreamResponse(
            sequence=message.sequence or position,
            idempotency_key=message.request.idempotency_key,
            result=await self._result(message.request),
        )

    async def _result(self, request: pb.EvaluateRequest) -> pb.EvaluateResult:
        """The answer to one request among several, or what is wrong with that one."""
        try:
            return pb.EvaluateResult(response=await self._decide(wire.read_request(request)))
        except Refused as error:
            return pb.EvaluateResult(error=self._error(error))

    def _error(self, error: InvalidAction | UnavailableError) -> pb.EvaluateError:
        if isinstance(error, UnavailableError):
            self._metrics.unavailable()
            return pb.EvaluateError(code=_UNAVAILABLE, message=str(error))
        field = error.problems[0].path
        self._metrics.refused(field)
        return pb.EvaluateError(code=_INVALID_ARGUMENT, field=field, message=str(error))


_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INVALID_ARGUMENT: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]


async def _abort(context: Context, error: pb.EvaluateError) -> NoReturn:
    await context.abort(_CODES[error.code], error.message)


def _json(body: bytes) -> Any:
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise InvalidAction(Problem("request", f"is not JSON: {error}")) from None


def _problem(status: int, title: str, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}
