"""The plain requests of one connection, answered in their order without h11 and ASGI, and mostly without a task."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from pdp.serving.connections import Wait
from pdp.serving.http1.first_step import first_step
from pdp.serving.http1.lingering import Lingering
from pdp.serving.http1.outbox import Outbox
from pdp.serving.http1.plain import Answer, Heads, Reply, encoded, end_of_head
from pdp.serving.requests import Peer, RequestLimit

MAX_PIECES = 8
"""A request in more pieces is h11's, because all of it is searched again with each piece."""

FAULT = Reply(500, b"text/plain; charset=utf-8", b"Internal Server Error")

logger = logging.getLogger(__name__)


class Server(NamedTuple):
    """What the connections of one server share."""

    heads: Heads
    limit: RequestLimit
    state: ServerState
    loop: asyncio.AbstractEventLoop
    outbox: Outbox


class PlainRequests:
    """Answers whole requests, holds the beginning of one, and gives back what h11 is to read.

    One request is answered in a turn of the event loop, so that nobody is served before others for sending many at
    once. `on_ready` is called when what is held may be answered: in the next turn, or after an answer that had to wait.
    """

    def __init__(
        self, server: Server, peer: Peer, transport: Lingering, flow: FlowControl, on_ready: Callable[[], None]
    ) -> None:
        self._server = server
        self._peer = peer
        self._transport = transport
        self._flow = flow
        self._on_ready = on_ready
        self._call: asyncio.Task[Reply] | None = None
        self._has_turn = True
        self._pieces = 0
        self.held = b""
        """What has come and is not answered yet."""
        self.missing: Wait | None = None
        """What has to come before the request held can be answered, if only part of it has."""
        self.answers = 0
        """How many were given."""
        self.closes = False
        """Whether the connection ends after the next answer."""

    @property
    def is_answering(self) -> bool:
        """Whether an answer, or the turn for one, is being waited for."""
        return self._call is not None or not self._has_turn

    @property
    def has_to_wait(self) -> bool:
        """Whether the next request has to wait: for an answer, its turn, a peer that does not read, or for ever."""
        if self._call is not None or not self._has_turn:
            return True
        return self._flow.write_paused or self._transport.is_closing()

    def receive(self, data: bytes) -> bytes:
        """Answer the next request in what has come and `data`; the result is for h11, which has the next turn."""
        self.held, self.missing = self.held + data, None
        if not self.held or self.has_to_wait:
            return b""
        end = end_of_head(self.held)
        if not end:
            return self._wait_for(Wait.HEAD)
        route = None if end < 0 else self._server.heads.route(self.held[:end])
        if route is None or self._server.limit.is_reached:
            return self.release()
        whole = end + route.size
        if len(self.held) < whole:
            return self._wait_for(Wait.BODY)
        body, self.held, self._pieces = self.held[end:whole], self.held[whole:], 0
        self._answer(route.answer, body)
        if self.held and not self.has_to_wait:
            self._has_turn = False
            self._server.loop.call_soon(self._take_turn)
        return b""

    def _take_turn(self) -> None:
        self._has_turn = True
        self._on_ready()

    def release(self) -> bytes:
        """What is held, which is h11's from now on."""
        data, self.held, self.missing, self._pieces = self.held, b"", None, 0
        return data

    def _wait_for(self, missing: Wait) -> bytes:
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            return self.release()
        self.missing = missing
        return b""

    def _answer(self, answer: Answer, body: bytes) -> None:
        try:
            answered = answer(body, self._peer)
            outcome = answered if isinstance(answered, Reply) else first_step(answered, self._server.loop)
        except Exception as error:
            self._fail(error)
            return
        if isinstance(outcome, Reply):
            self._send(outcome)
            return
        self._call = outcome
        self._server.limit.taken += 1
        self._server.state.tasks.add(outcome)  # type: ignore[arg-type]  # uvicorn's give nothing back
        outcome.add_done_callback(self._answered)

    def _answered(self, call: asyncio.Task[Reply]) -> None:
        self._server.state.tasks.discard(call)
        self._server.limit.taken -= 1
        self._call = None
        if call.cancelled():  # by a stop whose time is over
            self._transport.abort()
        elif (error := call.exception()) is not None:
            self._fail(error)
        else:
            self._send(call.result())
        self._on_ready()

    def _fail(self, error: BaseException) -> None:
        logger.error("a request failed", exc_info=error)
        self.closes = True
        self._send(FAULT)

    def _send(self, reply: Reply) -> None:
        if self._transport.is_closing():
            return  # the client has gone
        self.answers += 1
        date = self._server.state.default_headers[0][1]
        self._transport.write_later(encoded(reply, date, closes=self.closes), self._server.outbox)
        if self.closes:
            self._transport.close()
