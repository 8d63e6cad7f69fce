"""An HTTP/1.1 protocol of asyncio on httptools that holds no limits: the least that HTTP costs in Python."""

import asyncio
from collections.abc import Callable

import httptools


class Floor(asyncio.Protocol):
    """Answers each body with what `answer` makes of it: a whole answer, its head included."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        body, self._body = self._body, b""
        self._transport.write(self._answer(body))  # type: ignore[attr-defined]  # TCP and Unix sockets can be written
