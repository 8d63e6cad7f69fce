"""The port of `--metrics`: `/metrics`, `/healthz` and `/readyz`, and nothing else.

None of them needs a key or changes anything, so the port may be open to every scraper and probe.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pdp.serving.addresses import bound_address
from pdp.serving.connections import Limits, share_of_descriptors
from pdp.serving.http1.server import serving
from pdp.serving.parameters import problems_of
from pdp.serving.requests import problem

MAX_CONNECTIONS = 100


def application(metrics: Callable[[], bytes], alive: Callable[[], Response], ready: Callable[[], Response]) -> ASGIApp:
    """The three paths: the exposition for Prometheus, and the answers of the two probes."""
    answers: dict[str, Callable[[], Response]] = {
        "/metrics": lambda: Response(metrics(), media_type=CONTENT_TYPE_LATEST),
        "/healthz": alive,
        "/readyz": ready,
    }
    routes = [Route(path, _strict(answer)) for path, answer in answers.items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _problem})
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def monitoring(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    """Serves `app` on a listening socket, and yields its address."""
    limits = Limits(share_of_descriptors(MAX_CONNECTIONS, 1 / 16))
    address = bound_address(listener)
    async with serving(app, listener, limits):
        yield address


def _strict(answer: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def strict(request: Request) -> Response:
        found = problems_of(request.scope["query_string"], ())
        return problem(400, f"`{found[0][0]}`: {found[0][1]}") if found else answer()

    return strict


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return problem(error.status_code, error.detail, error.headers)
