"""A transport that lets its peer end first."""

import asyncio
import socket
import struct

from pdp.serving.http1.lingering import Lingering


async def test_a_peer_that_has_reset_the_connection_is_no_fault() -> None:
    """It may do so at any moment, also before the server knows."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        accepted, _ = listener.accept()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        lingering = Lingering(transport, lambda: True)
        lingering.close()
        assert lingering.is_closing()
        transport.abort()
