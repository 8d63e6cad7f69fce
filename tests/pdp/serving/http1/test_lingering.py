"""A transport that lets its peer end first, and sends at the end of a turn what has time until then."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pdp.serving.http1.lingering import Lingering
from pdp.serving.http1.outbox import Outbox


@asynccontextmanager
async def connected(*, is_sending: bool) -> AsyncIterator[tuple[Lingering, socket.socket]]:
    """A transport, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        accepted, _ = listener.accept()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
        yield Lingering(transport, lambda: is_sending), peer
        transport.abort()


async def test_a_peer_that_has_reset_the_connection_is_no_fault() -> None:
    """It may do so at any moment, also before the server knows."""
    async with connected(is_sending=True) as (lingering, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        lingering.close()
        assert lingering.is_closing()


async def test_what_has_time_is_written_at_the_end_of_the_turn() -> None:
    """Once, and in order."""
    async with connected(is_sending=False) as (lingering, peer):
        peer.setblocking(False)
        outbox = Outbox(asyncio.get_running_loop())
        lingering.write_later(b"a", outbox)
        lingering.write_later(b"b", outbox)
        try:
            early = peer.recv(10)
        except BlockingIOError:
            early = b""
        await asyncio.sleep(0)
        assert (early, peer.recv(10)) == (b"", b"ab")
        lingering.write_later(b"c", outbox)
        await asyncio.sleep(0)
        assert peer.recv(10) == b"c"


async def test_nothing_overtakes_what_has_time() -> None:
    """Neither what is written at once nor the end of the connection."""
    async with connected(is_sending=False) as (lingering, peer):
        outbox = Outbox(asyncio.get_running_loop())
        lingering.write_later(b"a", outbox)
        lingering.write(b"b")
        lingering.write_later(b"c", outbox)
        lingering.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [peer.recv(10), peer.recv(10)] == [b"abc", b""]
