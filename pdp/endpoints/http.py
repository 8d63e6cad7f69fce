"""The HTTP port: the JSON door, the probes and the metrics."""

from collections.abc import Callable, Collection
from math import ceil
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pdp.endpoints.origins import OwnOrigins
from pdp.endpoints.service import DecisionService
from pdp.metrics import Metrics
from pdp.serving.requests import problem, read_body

MAX_BODY_BYTES = 512 * 1024
"""An action of 64 KiB with each of its bytes written as six (`\\u0061`), and what stands beside it."""


def application(
    service: DecisionService, metrics: Metrics, not_ready: Callable[[], str | None], hosts: Collection[str] = ()
) -> ASGIApp:
    """The routes, for callers that know the sidecar by its IP address, as localhost or as one of `hosts`.

    `not_ready` tells why the sidecar should get no traffic, None when it should.
    """

    async def evaluate(request: Request) -> Response:
        status, answer = await service.evaluate_json(await read_body(request, MAX_BODY_BYTES))
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
    routed = Starlette(routes=routes, exception_handlers={HTTPException: _problem, ClientDisconnect: _gone})
    return OwnOrigins(routed, hosts)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    media_type = "application/json" if status < 400 else "application/problem+json"
    headers = {"retry-after": str(ceil(content["retry_after"]))} if status == 429 else None
    return JSONResponse(content, status, headers, media_type)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return problem(error.status_code, error.detail, error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
