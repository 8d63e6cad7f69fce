"""/healthz, /readyz, /metrics: the state of the store."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pdp.core.fields import Schema
from registry_store.rest.exchange.access import store_of
from registry_store.rest.exchange.problems import MEDIA_TYPE, problem
from registry_store.rest.exchange.routing import Strict
from registry_store.rest.exchange.schemas import COUNT, record, ref
from registry_store.store import Store

router = APIRouter(tags=["operations"], route_class=Strict)

MAX_DATABASE_AGE_SECONDS = 5


def _answers(about: str, **members: Schema) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": about, "content": {"application/json": {"schema": record({}, **members)}}}}


def alive() -> JSONResponse:
    """The answer of `/healthz`."""
    return JSONResponse({"status": "ok"})


def readiness(store: Store) -> JSONResponse:
    """The answer of `/readyz`."""
    if not store.ready:
        return problem(503, "the store is starting or stopping")
    if time.monotonic() - store.feed.confirmed_at > MAX_DATABASE_AGE_SECONDS:
        return problem(503, "the database is out of reach")
    return JSONResponse({"status": "ready", "revision": store.feed.revision})


NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The store is starting, stopping, or has no connection to its database",
        "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
    }
}


@router.get("/healthz", responses=_answers("The process answers", status={"const": "ok"}))
async def check_alive(request: Request) -> JSONResponse:
    """Whether the process answers."""
    return alive()


@router.get("/readyz", responses=_answers("Ready for requests", status={"const": "ready"}, revision=COUNT) | NOT_READY)
async def check_ready(request: Request) -> JSONResponse:
    """Whether the store accepts requests."""
    return readiness(store_of(request))


@router.get("/metrics", response_class=Response)
async def read_metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(store_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)
