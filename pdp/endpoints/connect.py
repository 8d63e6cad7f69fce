"""The Connect protocol on the HTTP port: the handlers that gRPC calls answer, unary RPCs and server streams."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, NoReturn

from grpc import StatusCode
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pdp.core.errors import InvalidActionError
from pdp.endpoints import connect_protocol as protocol
from pdp.endpoints.connect_messages import MAX_BATCH_BYTES, MAX_BYTES, Messages, Method, methods
from pdp.endpoints.connect_protocol import Call, ConnectError
from pdp.endpoints.service import SERVICE, DecisionService
from pdp.metrics import Metrics
from pdp.serving.requests import CrowdedError, Peer, Places, peer_of, problem
from pdp.serving.tls import names

PATH = f"/{SERVICE}/"
MAX_LARGE = 16
"""Requests of more than `MAX_BYTES` that may be in memory at once."""

logger = logging.getLogger(__name__)


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
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_json = method.content_types.get(content_type)
        if is_json is None:
            accepted = ", ".join(name.decode() for name in method.content_types)
            title = f"the content type is not one of {accepted}"
            return await problem(415, title, {"accept-post": accepted})(scope, receive, send)
        exchange = Exchange(method, is_json, headers, scope["query_string"], receive, send, peer_of(scope))
        return await (self._unary(exchange) if method.is_unary else self._stream(exchange))

    async def _unary(self, exchange: Exchange) -> None:
        deadline = None
        try:
            call = protocol.read_call(exchange.headers, exchange.query)
            async with asyncio.timeout(call.seconds) as deadline:
                answer = await self._answer(exchange, call)
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = self._refusal(exchange.method, error, deadline)
            await _send(exchange.send, refusal.status, b"application/json", protocol.dumps(refusal.document()))
            return
        content_type = b"application/json" if exchange.is_json else b"application/proto"
        if call.accepts_gzip and len(answer) > protocol.MIN_GZIP_BYTES:
            answer = await self._messages.deflated(answer)
            await _send(exchange.send, 200, content_type, answer, (b"content-encoding", b"gzip"))
        else:
            await _send(exchange.send, 200, content_type, answer)

    async def _answer(self, exchange: Exchange, call: Call) -> bytes:
        method = exchange.method
        # A large request takes a place for its body, and another one for what gzip makes of it.
        with self._place(min(_declared_size(exchange.headers), method.max_bytes)):
            body = await _body(exchange.receive, method.max_bytes)
            with self._place(protocol.inflated_size(body) if call.gzip else 0):
                raw = await self._messages.read(method, body, is_gzip=call.gzip, is_json=exchange.is_json)
                if method.handler is None:
                    raise ConnectError(StatusCode.UNIMPLEMENTED, f"{method.name} is not served")
                answer: bytes = await method.handler(raw, Context(exchange.peer))
                return await self._messages.json(method, answer) if exchange.is_json else answer

    def _place(self, size: int) -> AbstractContextManager[None]:
        return self._large.one() if size > MAX_BYTES else nullcontext()

    async def _stream(self, exchange: Exchange) -> None:
        deadline, refusal, is_open = None, None, False
        try:
            call = protocol.read_call(exchange.headers, exchange.query, b"connect-")
            async with asyncio.timeout(call.seconds) as deadline:
                raw = await self._enveloped(exchange, call)
                with self._waiting.one():
                    await _open_stream(exchange)
                    is_open = True
                    await _while_connected(exchange.receive, self._send_each(exchange, raw))
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = self._refusal(exchange.method, error, deadline)
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

    def _refusal(self, method: Method, error: Exception, deadline: asyncio.Timeout | None) -> ConnectError:
        """The error that tells the caller of a fault."""
        match error:
            case ConnectError():
                return error
            case InvalidActionError():
                self._metrics.refused(error.problems[0].path)
                return ConnectError(StatusCode.INVALID_ARGUMENT, str(error))
            case CrowdedError():
                return ConnectError(StatusCode.RESOURCE_EXHAUSTED, str(error))
            case TimeoutError() if deadline is not None and deadline.expired():
                return ConnectError(StatusCode.DEADLINE_EXCEEDED, "the time of connect-timeout-ms is over")
        logger.error("%s by Connect failed", method.name, exc_info=error)
        return ConnectError(StatusCode.INTERNAL, "the call failed in the sidecar")


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


async def _send(send: Send, status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
