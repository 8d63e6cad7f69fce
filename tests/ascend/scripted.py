"""An HTTP server that gives the bytes of the test as its answers, whatever it is asked."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from pdp.v1 import decision_pb2 as pb

ALLOWED = pb.EvaluateResponse(outcome=pb.OUTCOME_ALLOW, reason=pb.REASON_RISK_BELOW_AUTO_APPROVE)


class Reply(NamedTuple):
    """What is sent for one request, and whether the connection is closed then."""

    data: bytes
    closes: bool = False


def answer(body: bytes, status: str = "200 OK", content_type: str = "application/proto", *headers: str) -> bytes:
    """An answer with the length of its body."""
    head = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


ALLOW = answer(ALLOWED.SerializeToString())


class Scripted:
    """A server on a free port of this host, or on a Unix socket."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        self._replies = iter(replies)
        self.connections: list[asyncio.StreamWriter] = []
        self.requests: list[bytes] = []
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: ([0-9]+)", head)
                self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
                reply = next(self._replies)
                writer.write(reply.data)
                await writer.drain()
                if reply.closes:
                    break
        writer.close()


@asynccontextmanager
async def scripted(*replies: Reply) -> AsyncIterator[Scripted]:
    """A server that gives these replies, one for each request."""
    server = Scripted(replies)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for writer in server.connections:
            writer.close()
