"""The FastAPI application: routers, error handlers and metrics."""

import time
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry_store.access.sessions import Sessions
from registry_store.metrics import Metrics
from registry_store.rest import documentation
from registry_store.rest.exchange import problems
from registry_store.rest.openapi import TAGS, openapi_document
from registry_store.rest.table import PAGES, ROUTERS, allowed
from registry_store.store import Store


def application(store: Store) -> FastAPI:
    """Builds the REST interface of a store."""
    app = FastAPI(
        title="registry-store",
        description="The registry of AI agents: agents, policies, MCP servers, keys",
        version=version("agent-pdp"),
        generate_unique_id_function=lambda route: route.name,  # route names are unique
        openapi_tags=TAGS,
        redirect_slashes=False,  # a redirect would change the request
        openapi_url=None,  # this and the pages are routes of this package, as strict as the others
        docs_url=None,
        redoc_url=None,
    )
    app.openapi = partial(openapi_document, app)  # type: ignore[method-assign]  # the documented way to replace it
    app.state.store = store
    app.state.sessions = Sessions(store.pepper)
    problems.install(app, allowed)
    for router in (*ROUTERS, *PAGES):
        app.include_router(router)
    documentation.install(app)
    app.add_middleware(RequestMetrics, metrics=store.metrics)
    return app


class RequestMetrics:
    """Counts and times requests by route; paths have an unlimited number of values."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            self._note(scope, status, time.monotonic() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" else "any"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
