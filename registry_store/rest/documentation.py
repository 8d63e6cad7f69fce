"""What describes this port: `/`, which is also where people start, `/openapi.json`, and `/docs` to try the interface.

The scripts of `/docs` are served from here, not from another host. The routes are not closures: FastAPI keeps a
reference to every route function until the process ends.
"""

from importlib.metadata import version
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from pdp.serving.pages import index, prefers_html
from registry_store.pages.home import home
from registry_store.rest.exchange.routing import Strict

ASSETS = Path(fastapi_offline.__file__).parent / "static"
ASSETS_PATH = "/docs/assets"

ABOUT = "The registry of AI agents. The REST interface is under /api and requires a key: Authorization: Bearer owkai_…"
LINKS = {
    "/approvals": "approvals, for people who sign in with a key",
    "/docs": "documentation, to read and try the interface",
    "/openapi.json": "the interface as an OpenAPI document",
    "/healthz": "whether the process answers",
    "/readyz": "whether it accepts requests",
    "/metrics": "metrics for Prometheus",
}
_INDEX = index("registry-store", version("agent-pdp"), ABOUT, LINKS)
_router = APIRouter(include_in_schema=False, route_class=Strict)


def install(app: FastAPI) -> None:
    """Adds the pages and their assets."""
    app.include_router(_router)
    app.mount(ASSETS_PATH, StaticFiles(directory=ASSETS))


@_router.api_route("/", methods=["GET", "HEAD"])
async def root(request: Request) -> Response:
    """The name of this program and links: for a browser the page to start from, else JSON."""
    accept = request.headers.get("accept", "")
    if not prefers_html(accept):
        return _INDEX(accept)
    page = await home(request, ABOUT, LINKS)
    page.headers["vary"] = "accept"
    return page


@_router.api_route("/openapi.json", methods=["GET", "HEAD"])
async def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


@_router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page that shows every route and can send requests."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{request.app.title}: REST interface",
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_PATH}/favicon.png",
    )
