"""The Connect protocol (connectrpc.com/docs/protocol) as a client speaks it: heads of requests, errors, envelopes."""

import json
import math
from typing import Any

from ascend.calls.answer import Answer
from ascend.calls.calls import SERVICE, CallError, Code, UnreadableAnswerError

UNARY = "application/proto"
STREAM = "application/connect+proto"

_HEAD_BYTES = 5
_END = 0b10
_CODES = {"canceled" if code is Code.CANCELLED else code.lower(): code for code in Code}
_OF_STATUS = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
"""Of an answer that does not come from the decision point, as the protocol defines them."""


def request(authority: str, method: str, content_type: str, body: bytes, seconds: float) -> bytes:
    """A whole request, whose answer has this many seconds."""
    head = (
        f"POST /{SERVICE}/{method} HTTP/1.1\r\nhost: {authority}\r\nconnect-protocol-version: 1\r\n"
        f"connect-timeout-ms: {max(1, math.ceil(seconds * 1000))}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def message(answer: Answer) -> bytes:
    """The message in the whole answer to a unary call, or its error."""
    if answer.status != 200:
        raise error(answer)
    check_type(answer, UNARY)
    return bytes(answer.body)


def check_type(answer: Answer, content_type: str) -> None:
    """`UnreadableAnswerError` for another content type, such as that of a web page."""
    if answer.content_type != content_type:
        raise UnreadableAnswerError(f"its content type is `{answer.content_type[:80]}`, not `{content_type}`")


def error(answer: Answer) -> CallError:
    """The error of a whole answer whose status is not 200."""
    document = _load(bytes(answer.body)) or {}
    code = _CODES.get(str(document.get("code")))
    if code is not None:
        return _of_document(code, document)
    title = document.get("detail") or document.get("title")
    details = f"the sidecar answered HTTP status {answer.status}" + (f": {title}" if title else "")
    return CallError(_OF_STATUS.get(answer.status, Code.UNKNOWN), details)


def envelope(message: bytes) -> bytes:
    """The one message of a request to a server stream."""
    return bytes(1) + len(message).to_bytes(_HEAD_BYTES - 1, "big") + message


def opened(answer: Answer) -> tuple[bytes, bool] | None:
    """The next message of a stream, and whether it is the last, which ends it; None if more must arrive."""
    size = int.from_bytes(answer.body[1:_HEAD_BYTES], "big")
    if len(answer.body) < _HEAD_BYTES or len(answer.body) < _HEAD_BYTES + size:
        return None
    flags = answer.body[0]
    message = answer.take(_HEAD_BYTES + size)[_HEAD_BYTES:]
    if flags & ~_END:
        raise UnreadableAnswerError(f"an envelope has the flags {flags:#010b}")
    return message, bool(flags & _END)


def check_end(message: bytes) -> None:
    """Raise the error that the last message of a stream has, if it has one."""
    end = _load(message)
    document = None if end is None else end.get("error", {})
    if not isinstance(document, dict):
        raise UnreadableAnswerError("the end of the stream cannot be read")
    if document:
        raise _of_document(_CODES.get(str(document.get("code")), Code.UNKNOWN), document)


def _of_document(code: Code, document: dict[str, Any]) -> CallError:
    details = document.get("message", "")
    return CallError(code, details if isinstance(details, str) else "")


def _load(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, if there is one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
