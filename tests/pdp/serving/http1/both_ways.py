"""An application that answers the same with and without ASGI, on a Unix socket, where what was sent has arrived."""

import asyncio
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.endpoints.listeners import http_bound
from pdp.serving.addresses import Address
from pdp.serving.connections import Limits
from pdp.serving.http1.plain import Answer, Reply
from pdp.serving.http1.server import serving
from pdp.serving.requests import Peer

PATIENT = Limits(connections=100, head_seconds=3600, body_seconds=3600, idle_seconds=3600, reader_seconds=3600)
SOCKET = "http.sock"
READ_TURNS = 5
"""Turns after which it has accepted a connection and read what was sent."""
TURNS = 25
"""Turns of the event loop after which a server that has sent nothing has nothing to send."""
TYPE = "text/plain; charset=utf-8"


def sha256(body: bytes) -> bytes:
    """What the applications make of a body."""
    return hashlib.sha256(body).hexdigest().encode()


async def digest(body: bytes) -> bytes:
    """The same, as one that could wait."""
    return sha256(body)


class BothWays:
    """Answers POSTs with what `make` makes of their bodies, and notes in `ways` how each came."""

    def __init__(self, make: Callable[[bytes], Awaitable[bytes]] = digest) -> None:
        self._make = make
        self.ways: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By ASGI."""
        self.ways.append("asgi")
        try:
            body = await self._make(await Request(scope, receive).body())
        except ClientDisconnect:
            return
        await Response(body, media_type=TYPE, headers={"content-type": TYPE})(scope, receive, send)

    def direct(self, _path: bytes, _headers: Mapping[bytes, bytes]) -> Answer | None:
        """Without it."""
        return self._answer

    async def _answer(self, body: bytes, _peer: Peer) -> Reply:
        self.ways.append("direct")
        return Reply(200, TYPE.encode(), await self._make(body))


class AtOnce(BothWays):
    """The same, but plain requests are answered without a coroutine."""

    def direct(self, _path: bytes, _headers: Mapping[bytes, bytes]) -> Answer | None:
        """Without ASGI."""
        return self._answer_at_once

    def _answer_at_once(self, body: bytes, _peer: Peer) -> Reply:
        self.ways.append("direct")
        return Reply(200, TYPE.encode(), sha256(body))


def by_asgi(app: ASGIApp) -> ASGIApp:
    """The application without its short way."""

    async def only(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return only


class Client:
    """One connection, byte by byte."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        self.is_closed = False

    async def send(self, raw: bytes) -> None:
        """Send, and let the server read it."""
        if raw and not self.is_closed:
            with suppress(ConnectionError):  # the server has closed it, and its last words can still be read
                await asyncio.get_running_loop().sock_sendall(self._socket, raw)
        for _ in range(READ_TURNS):
            await asyncio.sleep(0)

    async def answers(self) -> bytes:
        """What the server sends until it rests."""
        got, idle = b"", 0
        while idle < TURNS:
            await asyncio.sleep(0)
            if more := self.read():
                got, idle = got + more, 0
            idle += 1
        return got

    def read(self) -> bytes:
        """What has come; at the end the connection is closed here too."""
        if self.is_closed:
            return b""
        try:
            got = self._socket.recv(1 << 20)
        except BlockingIOError:
            return b""
        except ConnectionError:
            got = b""
        if not got:
            self.close()
        return got

    def close(self) -> None:
        """Close it."""
        self.is_closed = True
        self._socket.close()


def advance(seconds: float) -> None:
    """Let so much time pass for the event loop, and so for the server."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


@asynccontextmanager
async def served(app: ASGIApp, folder: Path, limits: Limits = PATIENT) -> AsyncIterator[Callable[[], Client]]:
    """Serves the application; the function makes a connection."""
    clients: list[Client] = []
    path = folder / SOCKET

    def connect() -> Client:
        clients.append(Client(path))
        return clients[-1]

    with http_bound("--http", Address(path=str(path))) as (listener, _):
        try:
            async with serving(app, listener, limits):
                yield connect
        finally:
            for client in clients:
                client.close()


async def exchanged(app: ASGIApp, folder: Path, pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """The answers to these bytes, without their dates, and whether the connection was closed after them.

    Fails if an exception reaches the event loop.
    """
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with served(app, folder) as connect:
        client = connect()
        for piece in pieces:
            await client.send(piece)
        answers = await client.answers()
        is_closed = client.is_closed
        client.close()
        assert faults == []
        return without_dates(answers), is_closed


def without_dates(answers: bytes) -> bytes:
    """Answers without what the clock makes of them."""
    return re.sub(rb"date: [^\r]*\r\n", b"", answers)


def post(body: bytes = b"", *headers: str, path: str = "/Evaluate") -> bytes:
    """A plain request."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
