"""Accepts the connections of a server one by one; without file descriptors it waits instead of spinning."""

import asyncio
import errno
import logging
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

from pdp.serving.addresses import unmapped
from pdp.serving.connections import Connections

NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""What the system says where IPv6 is switched off."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
BACKLOG = 1024
RETRY_SECONDS = 0.1
OVER_SECONDS = 10.0
"""After this time without a failure, there are enough file descriptors again."""
MAX_REFUSAL_LINES = 20
REFUSAL_WINDOW_SECONDS = 60.0

logger = logging.getLogger(__name__)


def listening(family: int, name: tuple[str, int] | tuple[str, int, int, int]) -> socket.socket:
    """A TCP socket that listens at `name`; `OSError` if it cannot.

    The host `::` is every address of the machine, of IPv6 and IPv4, and of IPv4 alone where IPv6 is switched off.
    """
    try:
        return _listening(family, name)
    except OSError as error:
        if name[0] != "::" or error.errno not in NO_IPV6:
            raise
        return _listening(socket.AF_INET, ("0.0.0.0", name[1]))


def _listening(family: int, name: tuple[str, int] | tuple[str, int, int, int]) -> socket.socket:
    # asyncio disables Nagle's algorithm only if the protocol is given; with it, each response is some 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The system may have it otherwise (`net.ipv6.bindv6only`).
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(name)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Accepting:
    """Takes the connections of a listening socket while `run` runs.

    Without file descriptors, asyncio's own accept loop logs a traceback for each of a thousand tries per second.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol | asyncio.BufferedProtocol],
        connections: Connections,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._tls = tls
        self._handshakes: set[_Handshake] = set()
        self._refusals = _Refusals()
        self._refused_at: float | None = None

    async def run(self) -> None:
        """Accept connections until cancelled; then handshakes that are not complete are broken off."""
        try:
            await self._accept_each(asyncio.get_running_loop())
        finally:
            for handshake in list(self._handshakes):
                handshake.abort()

    async def _accept_each(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                accepted = await self._accept()
            except OSError as error:
                # Any other error concerns a connection that is already closed.
                if error.errno in EXHAUSTED:
                    await self._wait(error, loop.time())
                continue
            self._check_over(loop.time())
            await self._connect(accepted)

    async def _accept(self) -> socket.socket:
        # Not `loop.sock_accept`: cancelled as a connection arrives, it loses the connection and logs a traceback.
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                await self._readable()
            else:
                accepted.setblocking(False)
                return accepted

    async def _readable(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._connections.room()
            protocol = self._protocol if self._tls is None else self._handshake(self._tls, accepted)
            await asyncio.get_running_loop().connect_accepted_socket(protocol, accepted)
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    def _handshake(self, context: ssl.SSLContext, accepted: socket.socket) -> Callable[[], SSLProtocol]:
        """A protocol of TLS that passes what it decrypts to one of HTTP, once the handshake is complete."""
        peer = unmapped(accepted.getpeername()[0])
        limits = self._connections.limits
        loop = asyncio.get_running_loop()
        complete = loop.create_future()
        protocol = _Tls(
            loop,
            self._protocol(),
            context,
            complete,
            server_side=True,
            ssl_handshake_timeout=limits.head_seconds,  # type: ignore[arg-type]  # the stub has no fractions
            ssl_shutdown_timeout=limits.end_seconds,
        )
        handshake = _Handshake(protocol, self._connections)
        self._handshakes.add(handshake)
        self._connections.begin(handshake)

        def ended(outcome: asyncio.Future[None]) -> None:
            self._handshakes.discard(handshake)
            self._connections.end(handshake)
            if not outcome.cancelled() and (error := outcome.exception()) is not None:
                self._refusals.note(peer, error, loop.time())

        complete.add_done_callback(ended)
        return lambda: protocol

    async def _wait(self, error: OSError, now: float) -> None:
        if self._refused_at is None:
            logger.error("connections have to wait: %s", error.strerror)
        self._refused_at = now
        if not self._connections.close_longest_waiting():
            await asyncio.sleep(RETRY_SECONDS)
        await asyncio.sleep(0)

    def _check_over(self, now: float) -> None:
        if self._refused_at is not None and now - self._refused_at > OVER_SECONDS:
            self._refused_at = None
            logger.info("connections no longer have to wait")


class _Tls(SSLProtocol):
    """asyncio's TLS with a smaller buffer: its own occupies 256 KiB for as long as a connection is open."""

    max_size = 32 * 1024
    socket_transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket_transport = transport
        super().connection_made(transport)


class _Handshake:
    """A handshake under way, which keeps the server waiting as any other connection does."""

    def __init__(self, protocol: _Tls, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections

    def abort(self) -> None:
        """Break it off; from now on it is not counted, so that no other gives way in its place."""
        self._connections.end(self)
        transport = self._protocol.socket_transport
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class _Refusals:
    """Logs handshakes that failed, at most `MAX_REFUSAL_LINES` a minute."""

    def __init__(self) -> None:
        self._window = 0.0
        self._lines = 0

    def note(self, peer: str, error: BaseException, now: float) -> None:
        """Log a handshake that failed because of what the peer sent; one that it only broke off is not logged."""
        if not isinstance(error, ssl.SSLError):
            return
        if now - self._window >= REFUSAL_WINDOW_SECONDS:
            self._window, self._lines = now, 0
        self._lines += 1
        if self._lines <= MAX_REFUSAL_LINES:
            logger.warning("refused a TLS connection from `%s`: %s", peer, _reason(error), extra={"source": peer})


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    return _REASONS.get(error.reason or "", (error.reason or str(error)).lower().replace("_", " "))


_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no client certificate",
    "HTTP_REQUEST": "it speaks HTTP without TLS",
}
