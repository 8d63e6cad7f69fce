"""One connection to a sidecar's HTTP endpoint, in clear or over TLS."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ascend.calls.addresses import HttpAddress
from ascend.calls.sockets import RECEIVED_BYTES, Resolved, Sockets, left, literal

CROWDED_PAUSE_SECONDS = 0.005

T = TypeVar("T")


class Connection:
    """A connected socket, which one call uses at a time."""

    def __init__(self, sockets: Sockets, one: socket.socket) -> None:
        self._sockets = sockets
        self._socket = one
        self._tls: _Tls | None = None
        self.used_at = time.monotonic()
        """When the last call on it ended."""

    async def secure(self, context: ssl.SSLContext, host: str, deadline: float) -> None:
        """Make it one over TLS with this host."""
        self._tls = _Tls(context, host)
        await self._through(self._tls, self._tls.wrapped.do_handshake, deadline)

    async def send(self, data: bytes, deadline: float) -> None:
        """Send all of it."""
        tls = self._tls
        if tls is None:
            await self._sockets.send(self._socket, data, deadline)
            return
        while data:
            data = data[await self._through(tls, partial(tls.wrapped.write, data), deadline) :]

    async def receive(self, deadline: float) -> bytes:
        """What has arrived; nothing at the end."""
        tls = self._tls
        if tls is None:
            return await self._sockets.receive(self._socket, deadline)
        try:
            return await self._through(tls, partial(tls.wrapped.read, RECEIVED_BYTES), deadline)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""

    def is_quiet(self) -> bool:
        """Whether it is open and nothing has arrived, so that what arrives next answers what is sent next."""
        if self._tls is not None and (self._tls.arrived.pending or self._tls.wrapped.pending()):
            return False
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def interrupt(self) -> None:
        """End what waits on it, in whatever thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    async def _through(self, tls: "_Tls", step: Callable[[], T], deadline: float) -> T:
        """The result of a step of TLS, once what it sends is sent and what it needs has arrived."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush(tls, deadline)
                data = await self._sockets.receive(self._socket, deadline)
                tls.arrived.write(data) if data else tls.arrived.write_eof()
                continue
            await self._flush(tls, deadline)
            return result

    async def _flush(self, tls: "_Tls", deadline: float) -> None:
        if tls.leaving.pending:
            await self._sockets.send(self._socket, tls.leaving.read(), deadline)


class _Tls:
    """A TLS session between two buffers."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.arrived = ssl.MemoryBIO()
        self.leaving = ssl.MemoryBIO()
        self.wrapped = context.wrap_bio(self.arrived, self.leaving, server_hostname=host)


async def connected(
    sockets: Sockets, address: HttpAddress, context: ssl.SSLContext | None, deadline: float
) -> Connection:
    """A new connection; `OSError` if there is none to be had, `TimeoutError` if not in time."""
    if address.path:
        return await _to(sockets, (socket.AF_UNIX, address.path), deadline)
    targets = literal(address.host, address.port) or await sockets.resolve(address.host, address.port, deadline)
    connection = await _to_any(sockets, targets, deadline)
    if context is not None:
        try:
            await connection.secure(context, address.host, deadline)
        except BaseException:
            connection.close()
            raise
    return connection


async def _to_any(sockets: Sockets, targets: list[Resolved], deadline: float) -> Connection:
    """A connection to the first of several addresses that accepts one."""
    for target in targets[:-1]:
        with suppress(ConnectionError):
            return await _to(sockets, target, deadline)
    return await _to(sockets, targets[-1], deadline)


async def _to(sockets: Sockets, target: Resolved, deadline: float) -> Connection:
    family, address = target
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                await sockets.connect(one, address, deadline)
                return Connection(sockets, one)
            except BlockingIOError:
                await sockets.sleep(min(CROWDED_PAUSE_SECONDS, left(deadline)))
    except BaseException:
        one.close()
        raise
