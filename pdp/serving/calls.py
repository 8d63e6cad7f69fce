"""The limits of a gRPC server, and its shutdown without lost calls.

When its shutdown begins, gRPC cancels the calls that have arrived but that Python has not started. So for a moment
before the shutdown each new call is held. Callers that wait for an answer send no other call, so soon no call is left
between the network and Python. Held calls are answered after the clients know that the server shuts down.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from pdp.serving.connections import share_of_descriptors

QUIET_SECONDS = 0.1
"""After this time without a new call, all callers wait for held calls."""
MAX_HOLD_SECONDS = 0.5
LEAVE_SECONDS = 0.05
"""The time between the start of the shutdown, which clients see, and the answers to held calls."""

MAX_CALLS_A_CONNECTION = 250
"""Concurrent calls per connection; the client holds back further ones."""
MAX_PENDING_CALLS = 10_000
"""Calls that may wait to be started. Beyond that gRPC cancels some at random, of any client."""
HANDSHAKE_SECONDS = 5
IDLE_SECONDS = 300

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


def options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of a server that does not share its port and closes silent, idle and excess connections."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_allowed_incoming_connections", share_of_descriptors(10_000, 1 / 2)),
        ("grpc.max_concurrent_streams", MAX_CALLS_A_CONNECTION),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ]


class Draining(grpc.aio.ServerInterceptor):
    """Holds the calls that arrive while the server begins to stop; one for each server."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], handler_call_details: Details
    ) -> Handler:
        """Pass the call on; hold it while the server begins to stop."""
        if not self._going.is_set():
            self._arrived.set()
            await self._going.wait()
        return await continuation(handler_call_details)

    async def stop(self, server: grpc.aio.Server, seconds: float, sockets: Iterable[Path] = ()) -> None:
        """Stop the server; open calls get `seconds` to end, and are then cancelled.

        Its Unix sockets are removed first: gRPC accepts connections for a moment while it stops, and drops them with
        the calls on them.
        """
        self._going.clear()
        try:
            await self._until_quiet()
            for path in sockets:
                path.unlink(missing_ok=True)
            stopping = asyncio.create_task(server.stop(seconds))
            await asyncio.wait([stopping], timeout=LEAVE_SECONDS)  # without connections it is done at once
        finally:
            self._going.set()
        await stopping

    async def _until_quiet(self) -> None:
        try:
            async with asyncio.timeout(MAX_HOLD_SECONDS):
                while await self._arrives():
                    pass
        except TimeoutError:
            return

    async def _arrives(self) -> bool:
        self._arrived.clear()
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True
