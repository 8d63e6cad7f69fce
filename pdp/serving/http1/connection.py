"""HTTP/1.1 by uvicorn and h11, with limits of time and size that uvicorn lacks."""

import asyncio
import json
import logging
import socket
from http import HTTPStatus

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pdp.serving.addresses import unmapped
from pdp.serving.connections import Connections, Wait
from pdp.serving.http1.answering import PlainRequests, Server
from pdp.serving.http1.lingering import Lingering
from pdp.serving.http1.strict import MAX_HEAD_BYTES, Strict
from pdp.serving.requests import Peer

uvicorn_logger = logging.getLogger("pdp.serving.uvicorn_logger")
"""uvicorn logs only errors here: warnings about malformed requests go to the caller and would fill the log."""
uvicorn_logger.setLevel(logging.ERROR)


def _is_fault(record: logging.LogRecord) -> bool:
    """Only a stop cancels requests, those whose time is over; uvicorn would log a traceback of each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


uvicorn_logger.addFilter(_is_fault)


_IDLE = {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}


class HttpConnection(H11Protocol, asyncio.BufferedProtocol):
    """One connection, which keeps the server waiting no longer than the limits allow."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        loop: asyncio.AbstractEventLoop,
        plain: Server | None,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self.conn: Strict = Strict(h11.SERVER, MAX_HEAD_BYTES)
        self.logger = uvicorn_logger
        self._connections = connections
        self._server = plain
        self._plain: PlainRequests | None = None
        self._h11_reads = True
        """Whether h11 has the turn; else `_plain` has it, and h11 has read nothing that it has not answered."""
        self._fresh = True
        self._wait: Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait_seconds = self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvicorn's type of a transport is narrower than asyncio's
        self._lingering = Lingering(transport, self._peer_is_sending)  # type: ignore[arg-type]
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        if self.client is not None:
            # What trusts proxies by their addresses knows those of IPv4 in their own form.
            self.client = (unmapped(self.client[0]), self.client[1])
        over_socket = transport.get_extra_info("socket").family == socket.AF_UNIX
        peer = Peer(transport.get_extra_info("peercert"), over_socket)
        self.app_state = {"peer": peer}
        if self._server is not None:
            self._plain = PlainRequests(self._server, peer, self._lingering, self.flow, self._on_plain_ready)
            self._h11_reads = False
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
        data = bytes(self._connections.buffer[:nbytes])
        if self._plain is not None and not self._h11_reads:
            self._receive_plain(self._plain, data)
            return
        self.data_received(data)
        self._update_wait()

    def on_response_complete(self) -> None:
        self._fresh = False
        super().on_response_complete()
        self._h11_reads = self._plain is None or not self._is_idle()
        self._update_wait()

    def _receive_plain(self, plain: PlainRequests, data: bytes) -> None:
        answers = plain.answers
        rest = plain.receive(data)
        if plain.held and plain.has_to_wait:
            self.flow.pause_reading()
        elif self.flow.read_paused:
            self.flow.resume_reading()
        if rest:
            self._h11_reads = True
            self.data_received(rest)
        has_answered = plain.answers != answers
        self._fresh = self._fresh and not has_answered
        self._update_wait(renewed=has_answered)

    def _on_plain_ready(self) -> None:
        """Go on with the plain requests that had to wait."""
        if self._plain is None or self not in self.connections:
            return  # it was lost meanwhile
        self._fresh = False
        self._receive_plain(self._plain, b"")
        if self._plain.closes and not self._plain.is_answering:
            self.shutdown()

    def _is_idle(self) -> bool:
        """Whether h11 has answered all that it has read."""
        return self.conn.states == _IDLE and not self.conn.trailing_data[0]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._plain is not None and not self._h11_reads:
            self._receive_plain(self._plain, b"")
        self._update_wait()

    def shutdown(self) -> None:
        """Close the connection, after the answer to its current request."""
        if self._plain is not None and self._plain.is_answering:
            self._plain.closes = True
            return
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
        """Answer a connection whose requests cannot be parsed, and close it; h11 knows the status, uvicorn does not."""
        self._refuse(self.conn.refusal, msg)

    def _update_wait(self, *, renewed: bool = False) -> None:
        """Update what the connection keeps the server waiting for; a new wait, or a renewed one, gets its full time."""
        wait = self._waits_for()
        if wait is self._wait:
            if renewed and wait is not None:
                self._due = self.loop.time() + self._wait_seconds
                self._connections.renew(self)
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
        if self._plain is not None and not self._h11_reads:
            return self._waits_for_plain(self._plain)
        if self.conn.their_state is h11.SEND_BODY:
            return Wait.BODY
        if self.conn.their_state is not h11.IDLE:
            return None
        return Wait.HEAD if self._fresh or self.conn.trailing_data[0] else Wait.NEXT

    def _waits_for_plain(self, plain: PlainRequests) -> Wait | None:
        if plain.is_answering:
            return None
        return plain.missing or (Wait.HEAD if self._fresh else Wait.NEXT)

    def _peer_is_sending(self) -> bool:
        if self._plain is not None and self._plain.held:
            return True
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])

    def _set_timer(self, wait: Wait | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if wait is not None:
            self._wait_seconds = self._connections.limits.seconds(wait)
            self._due = self.loop.time() + self._wait_seconds
            self._timer = self.loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        """End the wait, unless it was renewed: to move the timer with each answer would cost as much as the answer."""
        if self._timer is not None and self._timer.when() < self._due:
            self._timer = self.loop.call_at(self._due, self._on_timer)
        else:
            self._timed_out()

    def _timed_out(self) -> None:
        if self._plain is not None and self._plain.missing is not None:
            self._h11_reads = True
            self.data_received(self._plain.release())
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
        """Answer instead of the application if no answer has begun, and close."""
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
