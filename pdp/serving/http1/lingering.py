"""A close that costs nobody the answer: what the peer still sends is read and thrown away first.

The kernel resets a connection that is closed with unread bytes, and the peer may then never see the answer.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pdp.serving.http1.outbox import Outbox

MAX_BYTES = 8 << 20
"""What is read of a peer that does not stop; a connection that sent more is reset."""


class Lingering:
    """A transport whose `close` waits for the peer, if it is still sending, to end first."""

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_sending = is_sending
        self._bytes_left = MAX_BYTES
        self._later = b""
        self.lingers = False
        """Closed, except that the peer has not ended yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, or lingers."""
        return self.lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write after all that was to be written later."""
        self._write_held()
        self._transport.write(data)

    def write_later(self, data: bytes, outbox: Outbox) -> None:
        """Write at the end of this turn, or earlier if the connection is written to or closed."""
        if not self._later:
            outbox.add(self._write_held)
        self._later += data

    def _write_held(self) -> None:
        if self._later:
            data, self._later = self._later, b""
            self._transport.write(data)

    def close(self) -> None:
        """Close it once everything is written and the peer has ended; a second call does not wait for the peer."""
        self._write_held()
        if self.is_closing() or not self._is_sending():
            self._transport.close()
            return
        self.lingers = True
        if self._transport.can_write_eof() and not self._transport.get_write_buffer_size():
            with suppress(OSError):  # the peer has reset it meanwhile; asyncio's `write_eof` would log that
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        self._transport.resume_reading()

    def discard(self, nbytes: int) -> None:
        """Count bytes that came while it lingers."""
        self._bytes_left -= nbytes
        if self._bytes_left < 0:
            self._transport.abort()
