"""Limits for every request: the number of concurrent requests, and the size of the body."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
"""Paths that are answered regardless of the number of other requests."""


class CrowdedError(Exception):
    """Too many calls of one kind are open; the text says which."""


class Places:
    """Room for `number` calls of one kind; `occupied` says what they do, after their number."""

    def __init__(self, number: int, occupied: str) -> None:
        self._number = number
        self._occupied = occupied
        self.taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Takes a place, or raises `CrowdedError`."""
        if self.taken >= self._number:
            raise CrowdedError(f"{self._number} {self._occupied}")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class RequestLimit:
    """Answers 503 beyond `max_requests` concurrent requests; probes do not count."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self.taken = 0

    @property
    def is_reached(self) -> bool:
        """Whether one more request would be too many."""
        return self.taken >= self._max_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self.is_reached:
            await problem(503, f"{self._max_requests} requests are being answered already", {"Retry-After": "1"})(
                scope, receive, send
            )
            return
        self.taken += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.taken -= 1


def problem(status: int, title: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the form of RFC 9457."""
    content = {"type": "about:blank", "title": title, "status": status}
    return JSONResponse(content, status, headers, "application/problem+json")


class Peer(NamedTuple):
    """The client of a connection: what `ssl` tells of its verified certificate (None without one)."""

    certificate: Mapping[str, Any] | None = None
    over_socket: bool = False
    """Whether it came by a Unix socket."""


UNKNOWN_PEER = Peer()


def peer_of(scope: Scope) -> Peer:
    """The client of a request."""
    found: Peer = scope.get("state", {}).get("peer", UNKNOWN_PEER)
    return found


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body; 413 if it is larger. The connection limits the time."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
    return bytes(body)
