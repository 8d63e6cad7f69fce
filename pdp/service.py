"""The doors of the decision point: the gRPC servicer, and JSON for people with curl.

gRPC messages come and go as bytes and are parsed here, so that malformed ones get INVALID_ARGUMENT with the field,
and one of them among many does not end a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc

from pdp import wire
from pdp.core import strict_json
from pdp.core.errors import InvalidAction, Problem
from pdp.core.model import Now
from pdp.decision_point import DecisionPoint, NoRegistryDataError
from pdp.explaining import explained
from pdp.metrics import Metrics
from pdp.state import Holder
from pdp.v1 import decision_pb2 as pb

SERVICE = "pdp.v1.PolicyDecisionPoint"
MOST_BATCHED = 1000

Refused = (InvalidAction, NoRegistryDataError)
Context = grpc.aio.ServicerContext[bytes, bytes]


class DecisionService:
    """`pdp.v1.PolicyDecisionPoint` over the state that `holder` has in force."""

    def __init__(self, holder: Holder, metrics: Metrics, clock: Callable[[], Now]) -> None:
        self.point = DecisionPoint(holder, metrics, clock)
        self._metrics = metrics
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
            },
        )

    def evaluate_json(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The JSON door: an HTTP status, and the answer or a problem (RFC 9457)."""
        try:
            return 200, wire.answer_json(self.point.evaluate(wire.read_json_request(_json(body))))
        except InvalidAction as error:
            self._metrics.refused(error.problems[0].path)
            problems = [problem._asdict() for problem in error.problems]
            return 400, _problem(400, "Invalid request", str(error)) | {"errors": problems}
        except NoRegistryDataError as error:
            self._metrics.unavailable()
            return 503, _problem(503, "No registry data", str(error))

    async def _evaluate(self, raw: bytes, context: Context) -> bytes:
        self._metrics.in_flight.inc()
        try:
            request = wire.read_request(wire.parse(pb.EvaluateRequest, raw))
            return self.point.evaluate(request).SerializeToString()
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
            results = [self._result(request) for request in requests]
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
            yield self._numbered(raw, position).SerializeToString()

    async def _explain(self, raw: bytes, context: Context) -> bytes:
        """Explained in a thread, one at a time: it takes milliseconds, and decisions go first."""
        try:
            action = wire.read_action(wire.parse(pb.ExplainRequest, raw).action)
            async with self._explaining:
                answer = await asyncio.to_thread(explained, self.point.question(action))
            return answer.SerializeToString()
        except Refused as error:
            await _abort(context, self._error(error))

    def _numbered(self, raw: bytes, position: int) -> pb.EvaluateStreamResponse:
        """The answer to one message of a stream, under its own number or, where it has none, its position."""
        try:
            message = wire.parse(pb.EvaluateStreamRequest, raw)
        except InvalidAction as error:
            return pb.EvaluateStreamResponse(sequence=position, result=pb.EvaluateResult(error=self._error(error)))
        return pb.EvaluateStreamResponse(
            sequence=message.sequence or position,
            idempotency_key=message.request.idempotency_key,
            result=self._result(message.request),
        )

    def _result(self, request: pb.EvaluateRequest) -> pb.EvaluateResult:
        """The answer to one request among several, or what is wrong with that one."""
        try:
            return pb.EvaluateResult(response=self.point.evaluate(wire.read_request(request)))
        except Refused as error:
            return pb.EvaluateResult(error=self._error(error))

    def _error(self, error: InvalidAction | NoRegistryDataError) -> pb.EvaluateError:
        if isinstance(error, NoRegistryDataError):
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
