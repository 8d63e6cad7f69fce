"""HTTP/1.1 by uvicorn and h11, with limits of time and size that uvicorn lacks."""

import asyncio
import json
import logging
import socket
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pdp.serving.addresses import unmapped
from pdp.serving.connections import Connections, Wait
from pdp.serving.http1.lingering import Lingering
from pdp.serving.requests import Peer

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 128
FREE_PIECES = 250
MIN_PIECE_BYTES = 256
"""The smallest average size of the pieces of a body after the first 250, because each piece costs the same."""

uvicorn_logger = logging.getLogger("pdp.serving.uvicorn_logger")
"""uvicorn logs only errors here: warnings about malformed requests go to the caller and would fill the log."""
uvicorn_logger.setLevel(logging.ERROR)


def _is_fault(record: logging.LogRecord) -> bool:
    """Only a stop cancels requests, those whose time is over; uvicorn would log a traceback of each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


uvicorn_logger.addFilter(_is_fault)


class Strict(h11.Connection):
    """Accepts only requests with unambiguous framing and a bounded parsing cost."""

    _pieces = 0
    _bytes = 0

    def next_event(self) -> Any:
        """h11's next event, or `RemoteProtocolError`."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("the request has both Content-Length and Transfer-Encoding")
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > FREE_PIECES + self._bytes / MIN_PIECE_BYTES:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        elif event is h11.NEED_DATA and self._head_lines() > MAX_HEAD_LINES:
            raise h11.RemoteProtocolError("the request has too many headers")
        return event

    def _head_lines(self) -> int:
        return self.trailing_data[0].count(b"\n") if self.their_state is h11.IDLE else 0


class HttpConnection(H11Protocol, asyncio.BufferedProtocol):
    """One connection, which keeps the server waiting no longer than the limits allow."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self.conn = Strict(h11.SERVER, MAX_HEAD_BYTES)
        self.logger = uvicorn_logger
        self._connections = connections
        self._fresh = True
        self._wait: Wait | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvicorn's type of a transport is narrower than asyncio's
        self._lingering = Lingering(transport, self._peer_is_sending)  # type: ignore[arg-type]
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        if self.client is not None:
            # What trusts proxies by their addresses knows those of IPv4 in their own form.
            self.client = (unmapped(self.client[0]), self.client[1])
        over_socket = transport.get_extra_info("socket").family == socket.AF_UNIX
        self.app_state = {"peer": Peer(transport.get_extra_info("peercert"), over_socket)}
        self._update_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_timer(None)
        self._connections.wait_no_longer(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._lingering.lingers:
            self._lingering.discard(nbytes)
            return
        self.data_received(bytes(self._connections.buffer[:nbytes]))
        self._update_wait()

    def on_response_complete(self) -> None:
        self._fresh = False
        super().on_response_complete()
        self._update_wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_wait()

    def shutdown(self) -> None:
        """Close the connection, after the answer to its current request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        self.transport.close()
        self._update_wait()

    def abort(self) -> None:
        """Close it without an answer."""
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """Disables uvicorn's own idle timeout; the limits replace it."""

    def send_400_response(self, msg: str) -> None:
        """Answer a connection whose requests cannot be parsed, and close it."""
        self._refuse(400, msg)

    def _update_wait(self) -> None:
        """Update what the connection keeps the server waiting for; a new wait gets its full time."""
        wait = self._waits_for()
        if wait is self._wait:
            return
        self._wait = wait
        self._set_timer(wait)
        if wait is None:
            self._connections.wait_no_longer(self)
        else:
            self._connections.wait_for(self)

    def _waits_for(self) -> Wait | None:
        if self.transport.is_closing():
            return Wait.END
        if self.flow.write_paused:
            return Wait.READER
        if self.conn.their_state is h11.SEND_BODY:
            return Wait.BODY
        if self.conn.their_state is not h11.IDLE:
            return None
        return Wait.HEAD if self._fresh or self.conn.trailing_data[0] else Wait.NEXT

    def _peer_is_sending(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])

    def _set_timer(self, wait: Wait | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = None if wait is None else self._connections.limits.seconds(wait)
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._timed_out)

    def _timed_out(self) -> None:
        has_begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if self._wait in (Wait.HEAD, Wait.BODY) and has_begun:
            seconds = self._connections.limits.seconds(self._wait)
            self._refuse(408, f"{self._wait.value} did not come within {seconds:g} s")
        elif self._wait in (Wait.HEAD, Wait.NEXT):
            self.transport.close()
        else:
            self.transport.abort()
        self._update_wait()

    def _refuse(self, status: int, why: str) -> None:
        """Answer instead of the application if no answer has has_begun, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        title = HTTPStatus(status).phrase
        content = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": why}).encode()
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(content))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=title.encode()),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
