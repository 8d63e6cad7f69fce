"""The Connect protocol (connectrpc.com/docs/protocol) on the wire: errors, the head of a call, gzip, envelopes."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from grpc import StatusCode

from pdp.core.fields import quote
from pdp.serving.parameters import problems_of

VERSION = b"1"
ENCODINGS = "gzip, identity"
END_STREAM = 0b10
MAX_TIMEOUT_DIGITS = 10
MIN_GZIP_BYTES = 4096
"""A smaller answer is sent as it is: to compress it costs more than a decision."""

_COMPRESSED = 0b01
_HEAD_BYTES = 5
_SIZE_BYTES = 4
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS


class ConnectError(Exception):
    """The error that a call ends with."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status of the error."""
        return STATUS[self.code]

    def document(self) -> dict[str, Any]:
        """The error as JSON."""
        return {"code": code_name(self.code), "message": str(self)}


def code_name(code: StatusCode) -> str:
    """The name that the protocol has for a code."""
    return "canceled" if code is StatusCode.CANCELLED else code.name.lower()


STATUS = {
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
"""The HTTP status of each code."""


class Call(NamedTuple):
    """The head of a request: its time in seconds, None for any; whether it uses gzip; the encodings that it accepts."""

    seconds: float | None
    gzip: bool
    accepted: bytes | None

    @property
    def accepts_gzip(self) -> bool:
        """Whether the answer may use gzip; a caller that does not say takes what its request has."""
        return self.gzip if self.accepted is None else prefers_gzip(self.accepted.decode("latin-1"))


def read_call(headers: Mapping[bytes, bytes], query: bytes, prefix: bytes = b"") -> Call:
    """Reads the head of a request, or raises `ConnectError`; the headers about encodings begin with `prefix`."""
    if headers.get(b"connect-protocol-version", VERSION) != VERSION:
        raise _invalid(f"connect-protocol-version: {_shown(headers[b'connect-protocol-version'])} is not `1`")
    if query:
        for name, message in problems_of(query, ()):
            raise _invalid(f"{name}: {message}" if name else message)
    encoding = headers.get(prefix + b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"gzip", b"identity", b""):
        name = (prefix + b"content-encoding").decode()
        raise ConnectError(StatusCode.UNIMPLEMENTED, f"{name}: {_shown(encoding)} is not one of `{ENCODINGS}`")
    return Call(_seconds(headers), encoding == b"gzip", headers.get(prefix + b"accept-encoding"))


def _seconds(headers: Mapping[bytes, bytes]) -> float | None:
    given = headers.get(b"connect-timeout-ms")
    if given is None:
        return None
    if not given.isdigit() or len(given) > MAX_TIMEOUT_DIGITS or not int(given):
        about = f"a positive number of milliseconds in at most {MAX_TIMEOUT_DIGITS} digits"
        raise _invalid(f"connect-timeout-ms: {_shown(given)} is not {about}")
    return int(given) / 1000


def prefers_gzip(accepted: str) -> bool:
    """Whether a list of encodings names gzip before it names identity."""
    for item in accepted.split(","):
        name, *parameters = item.lower().replace(" ", "").split(";")
        if any(parameter in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters):
            continue
        if name in ("gzip", "identity"):
            return name == "gzip"
    return False


def inflated_size(body: bytes) -> int:
    """How large a body is without gzip, as its last bytes say; `ConnectError` if it does not begin as gzip does."""
    if not body:
        return 0
    if not body.startswith(_GZIP_MAGIC):
        raise _invalid("the request is not gzip")
    return int.from_bytes(body[-_SIZE_BYTES:], "little")


def inflate(body: bytes, max_bytes: int) -> bytes:
    """The body without gzip; `ConnectError` if it is larger than `max_bytes`, or than it says."""
    size = inflated_size(body)
    if size > max_bytes:
        raise too_large(max_bytes)
    stream = zlib.decompressobj(_GZIP)
    try:
        inflated = stream.decompress(body, size + 1)
    except zlib.error:
        raise _invalid("the request is not gzip") from None
    if not stream.eof or stream.unused_data:
        raise _invalid("the request is not one whole gzip member")
    return inflated


def deflate(body: bytes) -> bytes:
    """The body with gzip."""
    stream = zlib.compressobj(1, wbits=_GZIP)
    return stream.compress(body) + stream.flush()


def envelope(message: bytes, flags: int = 0) -> bytes:
    """A message of a stream."""
    return bytes((flags,)) + len(message).to_bytes(_SIZE_BYTES, "big") + message


def opened(body: bytes) -> tuple[bytes, bool]:
    """The one message of a request to a server stream, and whether it is compressed."""
    if len(body) < _HEAD_BYTES or len(body) != _HEAD_BYTES + int.from_bytes(body[1:_HEAD_BYTES], "big"):
        raise _invalid("the request is not one enveloped message")
    if body[0] & ~_COMPRESSED:
        raise _invalid(f"the envelope has the flags {body[0]:#010b}, of which this protocol knows only the lowest")
    return body[_HEAD_BYTES:], bool(body[0] & _COMPRESSED)


def end_of_stream(error: ConnectError | None) -> bytes:
    """The last message of a stream."""
    return envelope(dumps({} if error is None else {"error": error.document()}), END_STREAM)


def dumps(document: dict[str, Any]) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def too_large(max_bytes: int) -> ConnectError:
    """The error of a request that is larger than `max_bytes`."""
    return ConnectError(StatusCode.RESOURCE_EXHAUSTED, f"the request is larger than {max_bytes} bytes")


def _invalid(message: str) -> ConnectError:
    return ConnectError(StatusCode.INVALID_ARGUMENT, message)


def _shown(value: bytes) -> str:
    return quote(value.decode("latin-1"))
