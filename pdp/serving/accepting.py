"""New connections for a server, one after the other; without file descriptors they wait rather than spin."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from pdp.serving.connections import Connections

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
RETRY_SECONDS = 0.1
OVER_SECONDS = 10.0
"""Without a refusal for so long, there are file descriptors again."""

logger = logging.getLogger(__name__)


class Accepting:
    """Takes the connections of a listening socket while `run` runs.

    asyncio's own loop logs a traceback for each try, a thousand times a second, and tries a thousand times more in the
    next.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], connections: Connections
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._refused_at: float | None = None

    async def run(self) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted = await self._accept()
            except OSError as error:
                # Whatever else it is concerns a connection that is gone already.
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
        if not self._connections.give_way():
            await asyncio.sleep(RETRY_SECONDS)
        await asyncio.sleep(0)

    def _check_over(self, now: float) -> None:
        if self._refused_at is not None and now - self._refused_at > OVER_SECONDS:
            self._refused_at = None
            logger.info("connections no longer have to wait")
