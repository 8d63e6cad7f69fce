"""The endpoints of the decision point: the gRPC servicer, and the JSON endpoint for `curl`.

gRPC passes messages as bytes and they are parsed here, so that a malformed one gets INVALID_ARGUMENT with the field,
and does not end a stream of others.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc

from pdp import approvals, wire
from pdp.approvals import Approvals, Question, TooManyWaitingError
from pdp.asking import ASKS_FIRST, Approving, PendingUnknownError
from pdp.callers.callers import ANY, Caller, Callers, ForeignAgentError
from pdp.core.action import MAX_ID_CHARACTERS, Action
from pdp.core.errors import InvalidActionError, Problem
from pdp.core.fields import quote
from pdp.core.model import Now
from pdp.counters.counters import Counters
from pdp.decision_point import DecisionPoint, Evaluation, Log, UnavailableError
from pdp.endpoints import incoming, outcomes
from pdp.endpoints.outcomes import Outcomes
from pdp.idempotency import TooManyRepeatsError
from pdp.metrics import Metrics
from pdp.outcomes import reports
from pdp.outcomes.ledger import Ledger
from pdp.serving.requests import CrowdedError, Places
from pdp.serving.turns import Turns
from pdp.settlement import Refusal, RefusedOutcomeError
from pdp.state import Holder
from pdp.sync.uplink import UnknownApprovalError
from pdp.v1 import decision_pb2 as pb
from pdp.wire import results

SERVICE = "pdp.v1.PolicyDecisionPoint"
MAX_STREAMS = 1000
MAX_EXPLANATIONS = 100
STREAM_IDLE_SECONDS = 300.0
ENDING_SECONDS = 0.2
CLOSE_SECONDS = 1.0

Decide: TypeAlias = Callable[[wire.Request, Caller], Coroutine[Any, Any, bytes]]
"""A request, and who asks, to the serialized `EvaluateResponse`."""
REQUEST_ERRORS = (InvalidActionError, UnavailableError, TooManyRepeatsError, ForeignAgentError)
RequestError: TypeAlias = InvalidActionError | UnavailableError | TooManyRepeatsError | ForeignAgentError
REFUSAL_CODES = {
    Refusal.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Refusal.FOREIGN: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
}
Context = grpc.aio.ServicerContext[bytes, bytes]
Form = TypeVar("Form", bytes, dict[str, Any])


class Store(approvals.Store, outcomes.Store, Protocol):
    """The calls to the store that the endpoints need; `Uplink` has them."""


class DecisionService:
    """`pdp.v1.PolicyDecisionPoint` over the state that `holder` has in force; decisions go to `log`.

    `around` wraps each decision, to trace it.
    """

    def __init__(
        self,
        holder: Holder,
        metrics: Metrics,
        clock: Callable[[], Now],
        log: Log,
        store: Store,
        *,
        counters: Counters | None = None,
        ledger: Ledger | None = None,
        node_id: str = "",
        callers: Callers | None = None,
        around: Callable[[Decide], Decide] | None = None,
    ) -> None:
        self.point = DecisionPoint(holder, metrics, clock, log, counters, ledger=ledger)
        self._outcomes = Outcomes(self.point, log, store, node_id)
        self.callers = callers or Callers()
        self._decide: Decide = self._decided if around is None else around(self._decided)
        self._waits_for_nothing = around is None and self.callers.are_alike
        self._holder = holder
        self._clock = clock
        self.approvals = Approvals(store, clock, self.point.serves)
        self._metrics = metrics
        self._log = log
        self._stopping = asyncio.Event()
        self._explaining = asyncio.Semaphore(1)
        self._explanations = Places(MAX_EXPLANATIONS, "calls wait for explanations already")
        self._reading = incoming.Reading()
        self._streams: set[asyncio.Timeout] = set()
        self._ending_streams = False

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers for a grpc.aio server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Evaluate": grpc.unary_unary_rpc_method_handler(self._evaluate),
                "EvaluateBatch": grpc.unary_unary_rpc_method_handler(self._evaluate_batch),
                "EvaluateStream": grpc.stream_stream_rpc_method_handler(self._evaluate_stream),
                "Explain": grpc.unary_unary_rpc_method_handler(self._explain),
                "ReportOutcome": grpc.unary_unary_rpc_method_handler(self._report_outcome),
                "WaitForApproval": grpc.unary_stream_rpc_method_handler(self._wait_for_approval),
            },
        )

    def stop_waiting(self) -> None:
        """End every call that waits for an approval; the client can wait at another sidecar."""
        self._stopping.set()

    def registry(self) -> dict[str, Any]:
        """The status of the registry data in force, for the readiness probe."""
        boot = self._clock().boot
        return {"registry": self._holder.status(boot), "staleness": round(self._holder.staleness(boot), 3)}

    def end_streams(self) -> None:
        """End every open stream as soon as it waits for its client."""
        self._ending_streams = True
        for stream in self._streams:
            if stream.when() is not None:
                stream.reschedule(asyncio.get_running_loop().time())

    async def evaluate_json(self, body: bytes, caller: Caller = ANY) -> tuple[int, dict[str, Any]]:
        """The JSON endpoint: an HTTP status, and the answer or a problem (RFC 9457)."""
        try:
            request = await self._reading.of(len(body), partial(incoming.read_json, body))
            return 200, wire.answer_json(pb.EvaluateResponse.FromString(await self._decide(request, caller)))
        except REQUEST_ERRORS as error:
            return self.json_problem(error)

    def json_problem(self, error: RequestError) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the problem that tell of an error, which is counted."""
        if isinstance(error, TooManyRepeatsError):
            document = problem(429, "Too many repeats", f"{_REPEATED}: {error}")
            return 429, document | {"retry_after": error.retry_after}
        if isinstance(error, ForeignAgentError):
            return 403, problem(403, "Not your agent", str(error))
        if isinstance(error, UnavailableError):
            self._metrics.unavailable()
            return 503, problem(503, "No decision now", str(error))
        self._metrics.refused(error.problems[0].path)
        return 400, invalid_request(error)

    async def outcome_json(self, body: bytes, caller: Caller = ANY) -> tuple[int, dict[str, Any]]:
        """The JSON endpoint for outcomes: an HTTP status, and the answer or a problem (RFC 9457)."""
        try:
            report = await self._reading.of(len(body), partial(reports.read_json, body))
            caller.check(report.agent_id)
            return 200, {"repeated": await self._outcomes.take(report)}
        except (InvalidActionError, ForeignAgentError) as error:
            return self.json_problem(error)
        except RefusedOutcomeError as error:
            status, title = _REFUSED[error.refusal]
            return status, problem(status, title, str(error))
        except UnavailableError as error:
            self._metrics.unavailable()
            return 503, problem(503, "Not now", str(error))

    async def _report_outcome(self, raw: bytes, context: Context) -> bytes:
        try:
            report = await self._reading.of(len(raw), partial(reports.read_message, raw))
            self.callers.of(context).check(report.agent_id)
            return pb.ReportOutcomeResponse(repeated=await self._outcomes.take(report)).SerializeToString()
        except RefusedOutcomeError as error:
            await context.abort(REFUSAL_CODES[error.refusal], str(error))
        except REQUEST_ERRORS as error:
            await context.abort(*self.refusal(error))

    async def _decided(self, request: wire.Request, caller: Caller) -> bytes:
        """The answer; waits only for room in the log, and for the store if the action needs an approval."""
        if caller is not ANY:
            caller.check(request.action.agent_id)
        if self._log.crowded:
            await self._log.room()
        if request.approval_id:
            use = await self.approvals.use(request) if self.point.needs_approval(request) else None
            return self.point.evaluate(request, Approving(use))
        try:
            return self.point.evaluate(request, ASKS_FIRST)
        except PendingUnknownError as error:
            question = error.question
        answer = self.point.evaluate(request, Approving(pending=await self.approvals.pending(question)))
        self._note_opened(pb.EvaluateResponse.FromString(answer), question)
        return answer

    def at_once(self, raw: bytes) -> bytes | None:
        """The serialized answer to a plain request; None if `_evaluate` must answer it, and then nothing was decided.

        Raises one of `REQUEST_ERRORS`.
        """
        request = wire.read_plain(raw) if self._waits_for_nothing and not self._log.crowded else None
        if request is None or request.approval_id:
            return None
        try:
            return self.point.evaluate(request, ASKS_FIRST)
        except PendingUnknownError:
            return None

    def refusal(self, error: RequestError) -> tuple[grpc.StatusCode, str]:
        """The code and the message that tell of an error, which is counted."""
        told = self._error(error)
        return _CODES[told.code], told.message

    def _note_opened(self, answer: pb.EvaluateResponse, question: Question) -> None:
        """Remember the approval that an answer opened, so that the same question finds it."""
        if answer.approval_id and not answer.approval_pending:
            expires_at = wire.read_moment(answer.approval_expires_at)
            self.approvals.opened(answer.approval_id, question.agent_id, expires_at, question)

    async def _evaluate(self, raw: bytes, context: Context) -> bytes:
        self._metrics.in_flight += 1
        try:
            answer = self.at_once(raw)
            if answer is not None:
                return answer
            request = await self._reading.of(len(raw), partial(incoming.read_message, raw))
            return await self._decide(request, self.callers.of(context))
        except REQUEST_ERRORS as error:
            await context.abort(*self.refusal(error))
        finally:
            self._metrics.in_flight -= 1

    async def _evaluate_batch(self, raw: bytes, context: Context) -> bytes:
        """Reads and answers each request on its own, and lets other calls run in between."""
        self._metrics.in_flight += 1
        try:
            turns, answers, caller = Turns(), [], self.callers.of(context)
            for request in incoming.split_batch(raw):
                result = await self._result(len(request), partial(incoming.read_message, request), caller)
                # Serialized messages that are concatenated are one message with the items of all.
                answers.append(results.batched(result))
                await turns.pause()
            return b"".join(answers)
        except REQUEST_ERRORS as error:
            await context.abort(*self.refusal(error))
        finally:
            self._metrics.in_flight -= 1

    async def _evaluate_stream(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Answers requests as they arrive; while one is being read, gRPC's flow control holds back the next."""
        # An abort during the first write would send the initial metadata once more, which gRPC refuses: no status then.
        await context.send_initial_metadata(())
        try:
            if len(self._streams) >= MAX_STREAMS:
                raise CrowdedError(f"{MAX_STREAMS} streams are open already")
            async with asyncio.timeout(None) as stream:
                with self._open(stream):
                    await self._answer_each(context, stream)
        except CrowdedError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except TimeoutError:
            why = "the sidecar is stopping" if self._ending_streams else f"nothing came for {STREAM_IDLE_SECONDS:g} s"
            await _close(context, grpc.StatusCode.UNAVAILABLE, f"{why}: open another stream")

    @contextmanager
    def _open(self, stream: asyncio.Timeout) -> Iterator[None]:
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    async def _answer_each(self, context: Context, stream: asyncio.Timeout) -> None:
        """Limits the wait for the client, but never the time of a decision."""
        position = 0
        while True:
            stream.reschedule(self._idle_deadline())
            raw = await context.read()
            if not isinstance(raw, bytes):
                return
            stream.reschedule(None)
            position += 1
            # Anew for each message: what a caller may ask for can change while its stream is open.
            answer = await self._stream_answer(raw, position, self.callers.of(context))
            stream.reschedule(self._idle_deadline())
            await context.write(answer)

    def _idle_deadline(self) -> float:
        return asyncio.get_running_loop().time() + (ENDING_SECONDS if self._ending_streams else STREAM_IDLE_SECONDS)

    async def _explain(self, raw: bytes, context: Context) -> bytes:
        try:
            action = await self._reading.of(len(raw), partial(_parsed_action, raw))
            return await self.explained(action, pb.ExplainResponse.SerializeToString, self.callers.of(context))
        except CrowdedError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except REQUEST_ERRORS as error:
            await context.abort(*self.refusal(error))

    async def explained(self, action: Action, form: Callable[[pb.ExplainResponse], Form], caller: Caller) -> Form:
        """Explains in a thread, one at a time: it takes milliseconds, and decisions go first."""
        caller.check(action.agent_id)
        with self._explanations.one():
            async with self._explaining:
                evaluation = self.point.evaluation(action)
                return await asyncio.to_thread(_explained, evaluation, form)

    async def _wait_for_approval(self, raw: bytes, context: Context) -> None:
        """Writes the updates itself: gRPC would leave a generator, which holds a place, to the garbage collector."""
        try:
            if len(raw) > incoming.MAX_REQUEST_BYTES:
                raise InvalidActionError(Problem("approval_id", f"is longer than {MAX_ID_CHARACTERS} characters"))
            approval_id = wire.read_approval_id(wire.parse(pb.WaitForApprovalRequest, raw))
            async with aclosing(self.updates(approval_id, self.callers.of(context))) as updates:
                async for update in updates:
                    await context.write(update.SerializeToString())
        except InvalidActionError as error:
            await context.abort(*self.refusal(error))
        except UnknownApprovalError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"approval {quote(approval_id)} is unknown")
        except TooManyWaitingError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except UnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def updates(self, approval_id: str, caller: Caller) -> AsyncGenerator[pb.ApprovalUpdate]:
        """Each state of an approval until the final one; `UnavailableError` as soon as the sidecar stops."""
        async with aclosing(self.approvals.wait(approval_id, caller.may_ask)) as updates:
            while (update := await self._unless_stopping(updates)) is not None:
                yield update

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

    async def _stream_answer(self, raw: bytes, position: int, caller: Caller) -> bytes:
        """The answer to one message of a stream, with the message's sequence or else its position."""
        try:
            message = await self._reading.of(len(raw), partial(incoming.parse, pb.EvaluateStreamRequest, raw))
        except InvalidActionError as error:
            return results.streamed(self._failed(error), position)
        result = await self._result(len(raw), partial(wire.read_request, message.request), caller)
        return results.streamed(result, message.sequence or position, message.request.idempotency_key)

    async def _result(self, size: int, read: Callable[[], wire.Request], caller: Caller) -> bytes:
        """The serialized `EvaluateResult` of one request of several: its answer or its error."""
        try:
            return results.answered(await self._decide(await self._reading.of(size, read), caller))
        except REQUEST_ERRORS as error:
            return self._failed(error)

    def _failed(self, error: RequestError) -> bytes:
        return pb.EvaluateResult(error=self._error(error)).SerializeToString()

    def _error(self, error: RequestError) -> pb.EvaluateError:
        if isinstance(error, ForeignAgentError):
            return pb.EvaluateError(code=_PERMISSION_DENIED, field="agent_id", message=str(error))
        if isinstance(error, TooManyRepeatsError):
            return pb.EvaluateError(code=_RESOURCE_EXHAUSTED, field=_REPEATED, message=f"{_REPEATED}: {error}")
        if isinstance(error, UnavailableError):
            self._metrics.unavailable()
            return pb.EvaluateError(code=_UNAVAILABLE, message=str(error))
        field = error.problems[0].path
        self._metrics.refused(field)
        return pb.EvaluateError(code=_INVALID_ARGUMENT, field=field, message=str(error))


_REFUSED = {
    Refusal.UNKNOWN: (404, "Unknown decision"),
    Refusal.FOREIGN: (403, "Not your decision"),
    Refusal.NOT_ALLOWED: (409, "The action was not allowed"),
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INVALID_ARGUMENT: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_PERMISSION_DENIED: int = grpc.StatusCode.PERMISSION_DENIED.value[0]
_RESOURCE_EXHAUSTED: int = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_REPEATED = "idempotency_key"
_UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]


async def _close(context: Context, code: grpc.StatusCode, why: str) -> None:
    """End a stream with a status, even if the client does not read it."""
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await context.abort(code, why)


def _parsed_action(raw: bytes) -> Action:
    return wire.read_action(incoming.parse(pb.ExplainRequest, raw).action)


def _explained(evaluation: Evaluation, form: Callable[[pb.ExplainResponse], Form]) -> Form:
    from pdp.endpoints import explaining  # with the reference procedure, which no decision needs

    return form(explaining.explained(evaluation))


def invalid_request(error: InvalidActionError) -> dict[str, Any]:
    """The problem (RFC 9457) that tells of a malformed request, every fault by its path."""
    problems = [problem._asdict() for problem in error.problems]
    return problem(400, "Invalid request", str(error)) | {"errors": problems}


def problem(status: int, title: str, detail: str) -> dict[str, Any]:
    """A problem (RFC 9457)."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}
