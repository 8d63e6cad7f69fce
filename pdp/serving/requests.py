"""What every request meets before the application: room for it, and for its body."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
"""Paths that are answered however many other requests there are."""


class Room:
    """At most so many requests at once, apart from the probes; one more is answered 503."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self._taken >= self._most:
            await problem(503, f"{self._most} requests are being answered already", {"Retry-After": "1"})(
                scope, receive, send
            )
            return
        self._taken += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._taken -= 1


def problem(status: int, title: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as RFC 9457 has it."""
    content = {"type": "about:blank", "title": title, "status": status}
    return JSONResponse(content, status, headers, "application/problem+json")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body; 413 where it is larger. How long it may take to come is the connection's to bound."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
    return bytes(body)
