"""/healthz, /readyz, /metrics, /api/sidecars: how the store itself is doing."""

import time

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from registry_store import sidecars
from registry_store.documents import Document
from registry_store.rest.access import Reader, store_of
from registry_store.rest.answers import Limit, Offset, gives, page
from registry_store.rest.problems import problem

router = APIRouter(tags=["operations"])

MOST_DATABASE_AGE_SECONDS = 5


@router.get("/healthz")
async def healthz() -> Document:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Starting, stopping, or without its database"}})
async def readyz(request: Request) -> Response:
    """Whether requests should come here."""
    store = store_of(request)
    if not store.ready:
        return problem(503, "the store is stopping")
    if time.monotonic() - store.feed.confirmed_at > MOST_DATABASE_AGE_SECONDS:
        return problem(503, "the database is out of reach")
    return JSONResponse({"status": "ready", "revision": store.feed.revision})


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(store_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/sidecars", responses=gives(422, about="A page of sidecars, by node id"))
async def list_sidecars(request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0) -> Document:
    """List the sidecars of this store: what each has acknowledged, and what it refuses."""
    rows, total = store_of(request).sidecars.page(limit, offset)
    return page("sidecars", [sidecars.document(row) for row in rows], total, limit, offset)
