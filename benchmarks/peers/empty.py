"""Endpoints that answer at once what they were given at their start: the cost of a protocol without a decision.

python -m benchmarks.peers.empty grpc|asgi|httptools HOST:PORT ANSWER-FILE

`grpc` is a handler of grpc.aio. `asgi` is an application in the HTTP server of the sidecar. `httptools` is an asyncio
protocol that parses HTTP/1.1 with httptools and keeps no limits: the least that HTTP costs in Python.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from starlette.types import Receive, Scope, Send

from pdp.endpoints.service import SERVICE
from pdp.serving.accepting import listening
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving


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


async def serve_asgi(address: str, answer: bytes) -> None:
    """Answer every request by an ASGI application, which reads the body first."""
    head = [(b"content-type", b"application/proto"), (b"content-length", str(len(answer)).encode())]

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})

    host, _, port = address.rpartition(":")
    with listening(socket.AF_INET, (host, int(port))) as listener:
        async with serving(app, listener, Limits()):
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
    "asgi": serve_asgi,
    "httptools": serve_httptools,
}


def main(kind: str, address: str, answer: str) -> None:
    """Serve until the process is ended."""
    asyncio.run(_run(SERVERS[kind](address, Path(answer).read_bytes())))


async def _run(serving_: Awaitable[None]) -> None:
    await serving_


if __name__ == "__main__":
    main(*sys.argv[1:])
