"""The Connect protocol on the HTTP port: the handlers that gRPC calls answer, unary RPCs and server streams."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

from grpc import StatusCode
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pdp.core.errors import InvalidActionError
from pdp.endpoints import connect_protocol as protocol
from pdp.endpoints.connect_messages import MAX_BATCH_BYTES, MAX_BYTES, Messages, Method, methods
from pdp.endpoints.connect_protocol import Call, ConnectError
from pdp.endpoints.service import REQUEST_ERRORS, SERVICE, DecisionService
from pdp.metrics import Metrics
from pdp.serving.http1.first_step import rest
from pdp.serving.http1.plain import Answer, Reply
from pdp.serving.requests import CrowdedError, Peer, Places, peer_of, problem
from pdp.serving.tls import names

PATH = f"/{SERVICE}/"
MAX_LARGE = 16
"""Requests of more than `MAX_BYTES` that may be in memory at once."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Exchange(NamedTuple):
    """One request and where its answer goes."""

    method: Method
    is_json: bool
    headers: Mapping[bytes, bytes]
    query: bytes
    receive: Receive
    send: Send
    peer: Peer


class Context:
    """The part of gRPC's context that the handlers of unary RPCs use."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def peer(self) -> str:
        """What gRPC tells of the client's address, without the address."""
        return "unix:" if self._peer.over_socket else "tcp"

    def auth_context(self) -> Mapping[str, tuple[bytes, ...]]:
        """The names in the client's certificate, as gRPC tells them."""
        certificate = self._peer.certificate
        return {} if certificate is None else names.as_in_call(certificate)

    async def abort(self, code: StatusCode, details: str = "", _trailers: object = ()) -> NoReturn:
        """Ends the call."""
        raise ConnectError(code, details)


class StreamContext(Context):
    """The same with `write`, which sends one message of a server stream."""

    def __init__(self, peer: Peer, write: Callable[[bytes], Awaitable[None]]) -> None:
        super().__init__(peer)
        self.write = write


class Connect:
    """An ASGI application for the paths that begin with `PATH`; each open stream takes one of the `waiting` places."""

    def __init__(self, service: DecisionService, metrics: Metrics, waiting: Places) -> None:
        self._service = service
        self._methods = methods(service.handlers())
        self._messages = Messages()
        self._metrics = metrics
        self._waiting = waiting
        self._large = Places(MAX_LARGE, "large requests are in memory already")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = self._methods.get(scope["path"])
        if method is None:
            return await problem(404, "Not Found")(scope, receive, send)
        if scope["method"] != "POST":
            return await problem(405, "Method Not Allowed", {"allow": "POST"})(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        is_json = _is_json(method, headers)
        if is_json is None:
            accepted = ", ".join(name.decode() for name in method.content_types)
            title = f"the content type is not one of {accepted}"
            return await problem(415, title, {"accept-post": accepted})(scope, receive, send)
        exchange = Exchange(method, is_json, headers, scope["query_string"], receive, send, peer_of(scope))
        return await (self._unary(exchange) if method.is_unary else self._stream(exchange))

    def direct(self, path: bytes, headers: Mapping[bytes, bytes]) -> Answer | None:
        """What answers a small request to a unary RPC with this head, which comes without gzip and is not refused."""
        method = self._methods.get(path.decode())
        if method is None or not method.is_unary or (is_json := _is_json(method, headers)) is None:
            return None
        try:
            call = protocol.read_call(headers, b"")
        except ConnectError:
            return None
        if call.gzip:
            return None
        answer = self._evaluated if method.name == "Evaluate" and not is_json else self._small
        return partial(answer, method, is_json, call)

    def _evaluated(
        self, method: Method, is_json: bool, call: Call, body: bytes, peer: Peer
    ) -> Reply | Coroutine[Any, Any, Reply]:
        """As `_small`, without waiting if the decision need not wait."""
        try:
            answer = self._service.at_once(body)
        except REQUEST_ERRORS as error:
            return _error(ConnectError(*self._service.refusal(error)))
        except Exception as error:
            return _error(self._refusal(method, error))
        if answer is None:
            return self._small(method, is_json, call, body, peer)
        if len(answer) > protocol.MIN_GZIP_BYTES:
            return self._reply(is_json, call, answer)
        return Reply(200, b"application/proto", answer)

    async def _small(self, method: Method, is_json: bool, call: Call, body: bytes, peer: Peer) -> Reply:
        try:
            answer = await _within(call.seconds, self._handled(method, is_json, call, body, peer))
        except Exception as error:
            return _error(self._refusal(method, error))
        return await self._reply(is_json, call, answer)

    async def _unary(self, exchange: Exchange) -> None:
        try:
            call = protocol.read_call(exchange.headers, exchange.query)
            answer = await _within(call.seconds, self._answer(exchange, call))
        except ClientDisconnect:
            return
        except Exception as error:
            reply = _error(self._refusal(exchange.method, error))
        else:
            reply = await self._reply(exchange.is_json, call, answer)
        await _send(exchange.send, reply)

    async def _answer(self, exchange: Exchange, call: Call) -> bytes:
        method = exchange.method
        # A large request takes a place for its body, and another one for what gzip makes of it.
        with self._place(min(_declared_size(exchange.headers), method.max_bytes)):
            body = await _body(exchange.receive, method.max_bytes)
            with self._place(protocol.inflated_size(body) if call.gzip else 0):
                return await self._handled(method, exchange.is_json, call, body, exchange.peer)

    async def _handled(self, method: Method, is_json: bool, call: Call, body: bytes, peer: Peer) -> bytes:
        raw = await self._messages.read(method, body, is_gzip=call.gzip, is_json=is_json)
        if method.handler is None:
            raise ConnectError(StatusCode.UNIMPLEMENTED, f"{method.name} is not served")
        answer: bytes = await method.handler(raw, Context(peer))
        return await self._messages.json(method, answer) if is_json else answer

    async def _reply(self, is_json: bool, call: Call, answer: bytes) -> Reply:
        content_type = b"application/json" if is_json else b"application/proto"
        if len(answer) > protocol.MIN_GZIP_BYTES and call.accepts_gzip:
            return Reply(200, content_type, await self._messages.deflated(answer), b"gzip")
        return Reply(200, content_type, answer)

    def _place(self, size: int) -> AbstractContextManager[None]:
        return self._large.one() if size > MAX_BYTES else nullcontext()

    async def _stream(self, exchange: Exchange) -> None:
        refusal, is_open = None, False

        async def served() -> None:
            nonlocal is_open
            raw = await self._enveloped(exchange, call)
            with self._waiting.one():
                await _open_stream(exchange)
                is_open = True
                await _while_connected(exchange.receive, self._send_each(exchange, raw))

        try:
            call = protocol.read_call(exchange.headers, exchange.query, b"connect-")
            await _within(call.seconds, served())
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = self._refusal(exchange.method, error)
        if not is_open:
            await _open_stream(exchange)
        await exchange.send({"type": "http.response.body", "body": protocol.end_of_stream(refusal)})

    async def _enveloped(self, exchange: Exchange, call: Call) -> bytes:
        """The request of a stream that this protocol can serve."""
        method = exchange.method
        if method.handler is None:
            raise ConnectError(StatusCode.UNIMPLEMENTED, f"{method.name} takes a stream of requests, which needs gRPC")
        message, is_gzip = protocol.opened(await _body(exchange.receive, method.max_bytes))
        if is_gzip and not call.gzip:
            raise ConnectError(StatusCode.INVALID_ARGUMENT, "connect-content-encoding: is required for this envelope")
        return await self._messages.read(method, message, is_gzip=is_gzip, is_json=exchange.is_json)

    async def _send_each(self, exchange: Exchange, raw: bytes) -> None:
        method = exchange.method
        assert method.handler is not None  # noqa: S101 - `_enveloped` refuses the others

        async def write(message: bytes) -> None:
            body = await self._messages.json(method, message) if exchange.is_json else message
            await exchange.send({"type": "http.response.body", "body": protocol.envelope(body), "more_body": True})

        await method.handler(raw, StreamContext(exchange.peer, write))

    def _refusal(self, method: Method, error: Exception) -> ConnectError:
        """The error that tells the caller of a fault."""
        match error:
            case ConnectError():
                return error
            case InvalidActionError():
                self._metrics.refused(error.problems[0].path)
                return ConnectError(StatusCode.INVALID_ARGUMENT, str(error))
            case CrowdedError():
                return ConnectError(StatusCode.RESOURCE_EXHAUSTED, str(error))
        logger.error("%s by Connect failed", method.name, exc_info=error)
        return ConnectError(StatusCode.INTERNAL, "the call failed in the sidecar")


def _is_json(method: Method, headers: Mapping[bytes, bytes]) -> bool | None:
    """Whether a request is in JSON; None if the method does not take its content type."""
    return method.content_types.get(headers.get(b"content-type", b"").partition(b";")[0].strip().lower())


async def _within(seconds: float | None, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, or `ConnectError` if it takes longer; a timer is set only if it waits."""
    try:
        awaited = work.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await rest(work, awaited)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise ConnectError(StatusCode.DEADLINE_EXCEEDED, "the time of connect-timeout-ms is over") from None


def _declared_size(headers: Mapping[bytes, bytes]) -> int:
    """The size of a body as its head says; it may be as large as any if that says none."""
    return int(headers.get(b"content-length", MAX_BATCH_BYTES))


async def _body(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        if len(body) > max_bytes:
            raise protocol.too_large(max_bytes)
        if not message["more_body"]:
            return bytes(body)


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work, unless the client closes the connection first: `ClientDisconnect`."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _open_stream(exchange: Exchange) -> None:
    content_type = b"application/connect+json" if exchange.is_json else b"application/connect+proto"
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]}
    await exchange.send(head)


def _error(refusal: ConnectError) -> Reply:
    return Reply(refusal.status, b"application/json", protocol.dumps(refusal.document()))


async def _send(send: Send, reply: Reply) -> None:
    head = [(b"content-type", reply.content_type), (b"content-length", str(len(reply.body)).encode())]
    if reply.encoding:
        head.append((b"content-encoding", reply.encoding))
    await send({"type": "http.response.start", "status": reply.status, "headers": head})
    await send({"type": "http.response.body", "body": reply.body})
