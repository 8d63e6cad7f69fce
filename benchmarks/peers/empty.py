"""Endpoints that answer at once what they were given at their start: the cost of a protocol without a decision.

python -m benchmarks.peers.empty grpc|http|httptools HOST:PORT ANSWER-FILE

`grpc` is a handler of grpc.aio. `http` is an application in the HTTP server of the sidecar: it answers without ASGI, as
the sidecar does. `httptools` is an asyncio protocol that parses HTTP/1.1 with httptools and keeps no limits: the least
that HTTP costs in Python.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import grpc
from starlette.types import Receive, Scope, Send

from pdp.endpoints.service import SERVICE
from pdp.serving.accepting import listening
from pdp.serving.connections import Limits
from pdp.serving.http1.plain import Answer, Reply
from pdp.serving.http1.server import serving
from pdp.serving.requests import Peer


async def serve_grpc(address: str, answer: bytes) -> None:
    """Answer calls of Evaluate by gRPC."""

    async def evaluate(_request: bytes, _context: object) -> bytes:
        return answer

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Evaluate": grpc.unary_unary_rpc_method_handler(evaluate)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


class Direct:
    """An application that answers every plain request with the same bytes, and has no other."""

    def __init__(self, answer: bytes) -> None:
        self._reply = Reply(200, b"application/proto", answer)

    def direct(self, _path: bytes, _headers: Mapping[bytes, bytes]) -> Answer:
        """What answers a plain request."""
        return self._answered

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError("the request is not plain")

    async def _answered(self, _body: bytes, _peer: Peer) -> Reply:
        return self._reply


async def serve_http(address: str, answer: bytes) -> None:
    """Answer every plain request."""
    host, _, port = address.rpartition(":")
    with listening(socket.AF_INET, (host, int(port))) as listener:
        async with serving(Direct(answer), listener, Limits()):
            await asyncio.Event().wait()


async def serve_httptools(address: str, answer: bytes) -> None:
    """Answer every request once it is complete."""
    from benchmarks.peers.floor import Floor

    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: {len(answer)}\r\n\r\n"
    whole = head.encode() + answer
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Floor(lambda _: whole), host, int(port), backlog=1024)
    await server.serve_forever()


SERVERS: dict[str, Callable[[str, bytes], Awaitable[None]]] = {
    "grpc": serve_grpc,
    "http": serve_http,
    "httptools": serve_httptools,
}


def main(kind: str, address: str, answer: str) -> None:
    """Serve until the process is ended."""
    asyncio.run(_run(SERVERS[kind](address, Path(answer).read_bytes())))


async def _run(serving_: Awaitable[None]) -> None:
    await serving_


if __name__ == "__main__":
    main(*sys.argv[1:])
