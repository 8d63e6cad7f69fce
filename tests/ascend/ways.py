"""The four ways to a sidecar: by gRPC and over HTTP, on TCP and on a Unix socket."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc

from pdp.endpoints import http
from pdp.endpoints.listeners import http_bound
from pdp.metrics import Metrics
from pdp.serving.addresses import Address
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from tests.waiting import BOUND_SECONDS

WAYS = ("grpc", "grpc+unix", "http", "http+unix")
NOWHERE = {
    "grpc": "127.0.0.1:1",
    "grpc+unix": "unix:/nonexistent/pdp.sock",
    "http": "http://127.0.0.1:1",
    "http+unix": "http+unix:/nonexistent/pdp.sock",
}
"""An address of each way at which nobody listens."""


def on_socket(way: str, path: Path) -> str:
    """The address of a way on a Unix socket."""
    return f"{'http+' if way.startswith('http') else ''}unix:{path}"


@asynccontextmanager
async def serving_at(service: Any, way: str, path: Path) -> AsyncIterator[str]:
    """A service behind a real server on a free port, or on the Unix socket at `path`: its address for a client.

    `service` is a `DecisionService`, or has its `handlers`.
    """
    if way.startswith("grpc"):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service.handlers(),))
        port = server.add_insecure_port(f"unix:{path}" if way == "grpc+unix" else "127.0.0.1:0")
        await server.start()
        try:
            yield on_socket(way, path) if way == "grpc+unix" else f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
        return
    address = Address(path=str(path)) if way == "http+unix" else Address("127.0.0.1", 0)
    app = http.application(service, Metrics(()), lambda: None)
    with http_bound("--http", address) as (listener, bound), closing(listener):
        async with serving(app, listener, Limits(stop_seconds=BOUND_SECONDS)):
            yield f"http+{bound}" if address.path else f"http://{bound}"


@asynccontextmanager
async def offered(service: Any, way: str) -> AsyncIterator[str]:
    """The same, with a Unix socket in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving_at(service, way, Path(folder, "pdp.sock")) as address:
            yield address
