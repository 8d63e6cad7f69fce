"""Accepts the connections of a server one by one; without file descriptors it waits instead of spinning."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from pdp.serving.connections import Connections

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
BACKLOG = 1024
RETRY_SECONDS = 0.1
OVER_SECONDS = 10.0
"""After this time without a failure, there are enough file descriptors again."""

logger = logging.getLogger(__name__)


def listening(family: int, name: tuple[str, int] | tuple[str, int, int, int]) -> socket.socket:
    """A TCP socket that listens at `name`; `OSError` if it cannot."""
    # asyncio disables Nagle's algorithm only if the protocol is given; with it, each response is some 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], connections: Connections
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._refused_at: float | None = None

    async def run(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
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
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)
        except OSError:
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

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
