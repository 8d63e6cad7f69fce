"""What the interface says of itself: `/`, `/openapi.json`, and `/docs`, on which it can be tried.

The scripts of `/docs` come from this package alone. The routes close over nothing: FastAPI keeps the functions that it
has seen for as long as the process lives.
"""

from importlib.metadata import version
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from pdp.serving.pages import index
from registry_store.rest.exchange.routing import Strict

ASSETS = Path(fastapi_offline.__file__).parent / "static"
ASSETS_PATH = "/docs/assets"

_INDEX = index(
    "registry-store",
    version("agent-pdp"),
    "The registry of AI agents. Its interface is under /api and needs a key: Authorization: Bearer owkai_…",
    {
        "/docs": "the interface, to read and to try",
        "/openapi.json": "the same, for programs",
        "/healthz": "whether the process answers",
        "/readyz": "whether it should get requests",
        "/metrics": "metrics for Prometheus",
    },
)
_router = APIRouter(include_in_schema=False, route_class=Strict)


def install(app: FastAPI) -> None:
    """Serve the page and what it needs."""
    app.include_router(_router)
    app.mount(ASSETS_PATH, StaticFiles(directory=ASSETS))


@_router.api_route("/", methods=["GET", "HEAD"])
async def root(request: Request) -> Response:
    """What this is and where to look: HTML for a browser, else JSON."""
    return _INDEX(request.headers.get("accept", ""))


@_router.api_route("/openapi.json", methods=["GET", "HEAD"])
async def openapi(request: Request) -> JSONResponse:
    """The description of the interface."""
    return JSONResponse(request.app.openapi())


@_router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """A page that shows every route and sends requests."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title}: REST interface",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_PATH}/favicon.png",
    )
