"""`pdp serve` of an earlier commit, with Evaluate by protobuf over HTTP/1.1 beside its gRPC.

python -m benchmarks.peers.base_http HOST:PORT serve …

It runs in the virtual environment of that commit, which had no Connect endpoint: the least protocol that HTTP needs
calls its servicer, as its gRPC server does.
"""

import asyncio
import sys
from typing import Any

from pdp.service import SERVICE  # type: ignore[import-not-found]  # it was here at that commit

from benchmarks.peers.floor import Floor
from pdp import app
from pdp.cli import main

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: "


def answering(service: Any) -> Any:
    """What makes a whole answer of the body of a request."""

    class Details:
        method = f"/{SERVICE}/Evaluate"

    evaluate = service.handlers().service(Details).unary_unary

    def answer(body: bytes) -> bytes:
        try:
            evaluate(body, None).send(None)
        except StopIteration as done:
            message: bytes = done.value
            return HEAD + str(len(message)).encode() + b"\r\n\r\n" + message
        raise RuntimeError("a decision waited, but no approval was given")

    return answer


def run(address: str) -> None:
    """Serve there too, once the program makes its gRPC server; then the program's own command line."""
    host, _, port = address.rpartition(":")
    program: Any = app._Program
    made = program.grpc_server

    def grpc_server(self: Any) -> Any:
        loop, answer = asyncio.get_running_loop(), answering(self.service)
        self.beside = loop.create_task(loop.create_server(lambda: Floor(answer), host, int(port), backlog=1024))
        return made(self)

    program.grpc_server = grpc_server
    main()


if __name__ == "__main__":
    run(sys.argv.pop(1))
