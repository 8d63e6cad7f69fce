"""The FastAPI application: routers, errors, measures."""

import time
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry_store.metrics import Metrics
from registry_store.rest import documentation
from registry_store.rest.exchange import problems
from registry_store.rest.openapi import TAGS, described
from registry_store.rest.table import ROUTERS, allowed
from registry_store.store import Store


def application(store: Store) -> FastAPI:
    """The REST interface of this store."""
    app = FastAPI(
        title="registry-store",
        description="The registry of AI agents: agents, policies, MCP servers, keys",
        version=version("agent-pdp"),
        generate_unique_id_function=lambda route: route.name,  # each has a name of its own
        openapi_tags=TAGS,
        redirect_slashes=False,  # a redirected request would be another one than the client sent
        openapi_url=None,  # it and the pages are routes of our own, as strict as the others
        docs_url=None,
        redoc_url=None,
    )
    app.openapi = partial(described, app)  # type: ignore[method-assign]  # FastAPI's own way to describe it otherwise
    app.state.store = store
    problems.install(app, allowed)
    for router in ROUTERS:
        app.include_router(router)
    documentation.install(app)
    app.add_middleware(Measured, metrics=store.metrics)
    return app


class Measured:
    """Counts and times each request by its route, never by its path, whose values have no bound."""

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
