"""Requests in the plainest form of HTTP/1.1: a POST with a small body whose length its head tells.

They are recognised, and nothing is refused here: h11 reads every request of another form, and every malformed one.
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pdp.serving.requests import Peer

MAX_HEAD_BYTES = 4096
MAX_HEADERS = 64
MAX_BODY_BYTES = 4096
MAX_KEPT = 512
MAX_KEPT_BYTES = 1024
"""A longer head is parsed each time; so what is kept is at most half a MiB."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(rb"POST (/[\w./-]*) HTTP/1\.1\r\n((?:" + _TOKEN + rb":[\t -~]*\r\n)*)\r\n")
_LENGTH = re.compile(rb"[0-9]{1,4}")
_METHOD = b"POST /"
_END = b"\r\n\r\n"
_OTHERS = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
"""Headers with which a request is not plain."""


class Reply(NamedTuple):
    """An answer."""

    status: int
    content_type: bytes
    body: bytes
    encoding: bytes = b""


Answer: TypeAlias = Callable[[bytes, Peer], Reply | Coroutine[Any, Any, Reply]]
"""Answers the body of a request of a client, at once or after waiting."""
Find: TypeAlias = Callable[[bytes, Mapping[bytes, bytes]], Answer | None]
"""What answers the plain requests with this path and these headers, whose names are in small letters; None: ASGI."""


@runtime_checkable
class Direct(Protocol):
    """An ASGI application that answers some requests without ASGI.

    One that wraps another and does not know of this has every request come by ASGI, so it cannot be avoided.
    """

    def direct(self, path: bytes, headers: Mapping[bytes, bytes]) -> Answer | None:
        """As `Find`; whatever the application refuses gets None."""


class Route(NamedTuple):
    """Of a head: the size of the body that follows it, and what answers it."""

    size: int
    answer: Answer


class Heads:
    """What answers requests, by their heads; clients send few different ones, so those are kept."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._kept: dict[bytes, Route | None] = {}

    def route(self, head: bytes) -> Route | None:
        """The route of a whole head; None if h11 is to read the request."""
        try:
            return self._kept[head]
        except KeyError:
            pass
        route = self._read(head)
        if len(head) <= MAX_KEPT_BYTES:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[head] = route
        return route

    def _read(self, head: bytes) -> Route | None:
        if len(head) > MAX_HEAD_BYTES or head.count(b"\n") > MAX_HEADERS or not (match := _HEAD.fullmatch(head)):
            return None
        headers = read_headers(match[2])
        if headers is None or not _OTHERS.isdisjoint(headers) or b"host" not in headers:
            return None
        if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        length = headers.get(b"content-length", b"")
        if not _LENGTH.fullmatch(length) or int(length) > MAX_BODY_BYTES:
            return None
        answer = self._find(match[1], headers)
        return None if answer is None else Route(int(length), answer)


def read_headers(lines: bytes) -> dict[bytes, bytes] | None:
    """The headers by their names in small letters; None if one is repeated."""
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip(b"\t ")
    return headers if len(headers) == lines.count(b"\n") else None


def end_of_head(data: bytes) -> int:
    """Where the head that `data` begins with ends; 0 if its end is still to come, -1 if it cannot be a plain one."""
    end = data.find(_END)
    if end >= 0:
        return end + len(_END)
    if len(data) >= MAX_HEAD_BYTES or not (data.startswith(_METHOD) or _METHOD.startswith(data)):
        return -1
    return 0 if data.count(b"\n") == data.count(b"\r\n") else -1  # to h11 a line may also end with a line feed alone


def encoded(reply: Reply, date: bytes, *, closes: bool) -> bytes:
    """The bytes of an answer, as h11 writes them."""
    status, content_type, body, encoding = reply
    more = b"content-encoding: " + encoding + b"\r\n" if encoding else b""
    if closes:
        more += b"connection: close\r\n"
    return b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        _PHRASES.get(status, b""),
        date,
        content_type,
        len(body),
        more,
        body,
    )


_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
