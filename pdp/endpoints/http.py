"""The HTTP port: the Connect protocol, the JSON endpoints, the probes and metrics, and the pages about them."""

import re
from collections.abc import Awaitable, Callable, Collection
from math import ceil
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.callers.callers import Caller
from pdp.core.errors import InvalidActionError, Problem
from pdp.core.fields import join, quote
from pdp.endpoints import connect
from pdp.endpoints.json_answers import JsonAnswers
from pdp.endpoints.origins import OwnOrigins
from pdp.endpoints.pages import Pages
from pdp.endpoints.service import DecisionService, invalid_request
from pdp.metrics import Metrics
from pdp.outcomes.reports import MAX_REPORT_BYTES
from pdp.serving.pages import html_answer
from pdp.serving.parameters import problems_of
from pdp.serving.requests import CrowdedError, Places, peer_of, problem, read_body

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_BODY_BYTES = 512 * 1024
"""An action of 64 KiB with each of its bytes written as six (`\\u0061`), and what stands beside it."""
MAX_WAIT_SECONDS = 60
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,6})?")


def application(
    service: DecisionService,
    metrics: Metrics,
    not_ready: Callable[[], str | None],
    hosts: Collection[str] = (),
    *,
    max_waiting: int = 100,
) -> ASGIApp:
    """The routes, for callers that know the sidecar by its IP address, as localhost or as one of `hosts`.

    `not_ready` tells why the sidecar should get no traffic, None when it should. At most `max_waiting` calls wait for
    approvals, so that others find room.
    """

    def caller(request: Request) -> Caller:
        return service.callers.of_request(peer_of(request.scope))

    async def evaluate(request: Request) -> Response:
        status, answer = await service.evaluate_json(await read_body(request, MAX_BODY_BYTES), caller(request))
        return _json(answer, status)

    async def outcome(request: Request) -> Response:
        status, answer = await service.outcome_json(await read_body(request, MAX_REPORT_BYTES), caller(request))
        return _json(answer, status)

    async def explain(request: Request) -> Response:
        status, answer = await answers.explain(await read_body(request, MAX_BODY_BYTES), caller(request))
        return _json(answer, status)

    async def approval(request: Request) -> Response:
        seconds = request.query_params.get("wait", "0")
        if not _SECONDS.fullmatch(seconds) or float(seconds) > MAX_WAIT_SECONDS:
            wrong = Problem("wait", f"{quote(seconds)} is not a number of seconds from 0 to {MAX_WAIT_SECONDS}")
            return _json(invalid_request(InvalidActionError(wrong)), 400)
        try:
            with waiting.one():
                approval_id = request.path_params["approval_id"]
                status, answer = await answers.approval(approval_id, float(seconds), caller(request))
        except CrowdedError as error:
            return problem(429, str(error))
        return _json(answer, status)

    async def root(request: Request) -> Response:
        return pages.about(request.headers.get("accept", ""))

    async def openapi(_request: Request) -> Response:
        return Response(pages.document, media_type="application/json")

    async def docs(_request: Request) -> Response:
        return html_answer(pages.docs)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def alive(_request: Request) -> Response:
        return probes.alive()

    async def ready(_request: Request) -> Response:
        return probes.ready()

    probes = Probes(service, not_ready)
    waiting = Places(max_waiting, "calls wait for approvals over HTTP already")
    answers = JsonAnswers(service)
    calls = connect.Connect(service, metrics, waiting)
    pages = Pages()
    routes = [
        Route("/", _strict(root)),
        Route("/v1/evaluate", _strict(evaluate), methods=["POST"]),
        Route("/v1/outcomes", _strict(outcome), methods=["POST"]),
        Route("/v1/explain", _strict(explain), methods=["POST"]),
        Route("/v1/approvals/{approval_id}", _strict(approval, "wait")),
        Route("/openapi.json", _strict(openapi)),
        Route("/docs", _strict(docs)),
        Route("/metrics", _strict(exposition)),
        Route("/healthz", _strict(alive)),
        Route("/readyz", _strict(ready)),
    ]
    routed = Starlette(routes=routes, exception_handlers={HTTPException: _problem, ClientDisconnect: _gone})

    async def by_path(scope: Scope, receive: Receive, send: Send) -> None:
        app = calls if scope["path"].startswith(connect.PATH) else routed
        await app(scope, receive, send)

    return OwnOrigins(by_path, hosts, calls.direct)


class Probes:
    """The answers of `/healthz` and `/readyz`; `not_ready` says why a sidecar should get no traffic, else None."""

    def __init__(self, service: DecisionService, not_ready: Callable[[], str | None]) -> None:
        self._service = service
        self._not_ready = not_ready

    def alive(self) -> Response:
        """The process answers."""
        return _json({"status": "alive"})

    def ready(self) -> Response:
        """Whether the sidecar decides, and how fresh its data is."""
        reason = self._not_ready()
        if reason is not None:
            return _json({"status": reason}, 503)
        return _json({"status": "ready"} | self._service.registry())


def _strict(answer: Endpoint, *known: str) -> Endpoint:
    """The endpoint, which takes only the `known` query parameters: another is refused as an unknown field is."""

    async def strict(request: Request) -> Response:
        query = request.scope["query_string"]
        if not query or not (found := problems_of(query, known)):
            return await answer(request)
        problems = [Problem(join("", name), message) for name, message in found]
        return _json(invalid_request(InvalidActionError(*problems)), 400)

    return strict


def _json(content: dict[str, Any], status: int = 200) -> Response:
    media_type = "application/json" if status < 400 else "application/problem+json"
    headers = {"retry-after": str(ceil(content["retry_after"]))} if status == 429 and "retry_after" in content else None
    return JSONResponse(content, status, headers, media_type)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return problem(error.status_code, error.detail, error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
