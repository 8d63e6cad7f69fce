"""The HTTP port: the JSON door, the probes and the metrics."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pdp.metrics import Metrics
from pdp.service import DecisionService

MOST_BODY_BYTES = 4 << 20
MOST_CONNECTIONS = 1000
BODY_SECONDS = 10
IDLE_SECONDS = 30
STOP_SECONDS = 5


def application(service: DecisionService, metrics: Metrics, not_ready: Callable[[], str | None]) -> Starlette:
    """The routes; `not_ready` tells why the sidecar should get no traffic, None when it should."""

    async def evaluate(request: Request) -> Response:
        status, answer = await service.evaluate_json(await _body(request))
        return _json(answer, status)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def alive(_request: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(_request: Request) -> Response:
        reason = not_ready()
        if reason is not None:
            return _json({"status": reason}, 503)
        return _json({"status": "ready"} | service.registry())

    routes = [
        Route("/v1/evaluate", evaluate, methods=["POST"]),
        Route("/metrics", exposition),
        Route("/healthz", alive),
        Route("/readyz", ready),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _problem, ClientDisconnect: _gone})


@asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Serves `app` on a bound socket until left, when calls under way get a few seconds to end."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Step by step and not by `serve()`, which would take over the program's signals.
    await server.startup(sockets=[listener])
    running = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await running
        await server.shutdown(sockets=[listener])


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BODY_BYTES:
                    raise HTTPException(413, f"the body is larger than {MOST_BODY_BYTES} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {BODY_SECONDS} s") from None
    return bytes(body)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    media_type = "application/json" if status < 400 else "application/problem+json"
    return JSONResponse(content, status, media_type=media_type)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    content = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    return JSONResponse(content, error.status_code, error.headers, media_type="application/problem+json")


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
