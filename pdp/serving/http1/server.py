"""Serves an application over HTTP/1.1 on a bound socket."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from pdp.serving.accepting import Accepting
from pdp.serving.connections import Connections, Limits
from pdp.serving.http1.answering import Server
from pdp.serving.http1.connection import HttpConnection
from pdp.serving.http1.outbox import Outbox
from pdp.serving.http1.plain import Direct, Heads
from pdp.serving.requests import RequestLimit

DATE_SECONDS = 1.0


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    limits: Limits,
    *,
    proxy_headers: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """Serves `app` on a listening socket; at the end open requests get `stop_seconds` to finish.

    An `app` that is `Direct` answers plain requests without ASGI. `request.state.peer` is the client, with what `ssl`
    tells of its certificate.
    """
    limit = RequestLimit(app, limits.requests)
    config = uvicorn.Config(
        limit,
        http="h11",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=proxy_headers,
        ws="none",
    )
    config.load()
    state = ServerState()
    state.default_headers = _dated()
    connections = Connections(limits, state.connections)  # type: ignore[arg-type]  # all of them are of one kind here
    loop = asyncio.get_running_loop()
    plain = Server(Heads(app.direct), limit, state, loop, Outbox(loop)) if isinstance(app, Direct) else None
    listener.setblocking(False)
    accepting = Accepting(listener, lambda: HttpConnection(connections, config, state, loop, plain), connections, tls)
    tasks = [asyncio.create_task(accepting.run()), asyncio.create_task(_dating(state))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        await _drain(state, connections)


async def _dating(state: ServerState) -> None:
    """Keep the date header of answers current."""
    while True:
        await asyncio.sleep(DATE_SECONDS)
        state.default_headers = _dated()


def _dated() -> list[tuple[bytes, bytes]]:
    return [(b"date", formatdate(time.time(), usegmt=True).encode())]


async def _drain(state: ServerState, connections: Connections) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    try:
        async with asyncio.timeout(connections.limits.stop_seconds):
            await connections.all_closed()
            await asyncio.gather(*state.tasks, return_exceptions=True)
    except TimeoutError:
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
