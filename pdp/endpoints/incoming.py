"""Bytes of callers → requests, so that reading what one sends never holds up what others ask.

Python's parsers of JSON and protobuf keep its lock from the first byte to the last. So what they are given is bounded,
in time and not only in size, and what follows them is done in a thread where it takes longer than a thread does.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pdp import wire
from pdp.core.errors import InvalidActionError, Problem
from pdp.core.json import strict_json
from pdp.v1 import decision_pb2 as pb

MAX_REQUEST_BYTES = wire.MAX_ACTION_BYTES + 8 * 1024
"""An action, and the keys and numbers beside it."""
MAX_BATCHED = 1000
SMALL_BYTES = 4096
"""So little is read sooner than a thread is woken."""

Message = TypeVar("Message", pb.EvaluateRequest, pb.EvaluateStreamRequest, pb.ExplainRequest)
Read = TypeVar("Read")

# Each of these bytes in a text of JSON is one in its shortest form too, and there are few without values between them.
_STRUCTURE = b',:[]{}"'
_BESIDE_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_REQUESTS_TAG = 1 << 3 | 2
_FIXED_BYTES = {1: 8, 5: 4}


class Reading:
    """Reads small things at once and large ones in a thread, one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def of(self, size: int, read: Callable[[], Read]) -> Read:
        """What `read` gives of something of so many bytes."""
        if size <= SMALL_BYTES:
            return read()
        async with self._turn:
            return await asyncio.to_thread(read)


def parse(kind: type[Message], raw: bytes) -> Message:
    """A message that holds an action, if anything large, or `InvalidActionError`."""
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidActionError(Problem("action", f"is larger than {wire.MAX_ACTION_BYTES} bytes"))
    return wire.parse(kind, raw)


def read_request(message: pb.EvaluateRequest) -> wire.Request:
    """The request in a message, its attributes decoded, or `InvalidActionError`."""
    request = wire.read_request(message)
    len(request.action.attributes)  # else they would be decoded as the action is decided
    return request


def read_json(body: bytes) -> wire.Request:
    """The request in a JSON text, or `InvalidActionError` with every field that is wrong."""
    if len(body.translate(None, _BESIDE_STRUCTURE)) > MAX_REQUEST_BYTES:
        raise InvalidActionError(Problem("action", f"is larger than {wire.MAX_ACTION_BYTES} bytes"))
    try:
        document = strict_json.loads(body)
    except ValueError as error:
        raise InvalidActionError(Problem("request", f"is not JSON: {error}")) from None
    return wire.read_json_request(document)


def split_batch(raw: bytes) -> list[bytes]:
    """The requests of an `EvaluateBatchRequest`, each as its own bytes; to parse all of them at once takes 0.1 s."""
    requests: list[bytes] = []
    position = 0
    for _ in range(2 * MAX_BATCHED):  # of fields, whatever they are
        if position == len(raw):
            return requests
        tag, position = _varint(raw, position)
        start, position = _field(raw, tag & 7, position)
        if tag == _REQUESTS_TAG:
            requests.append(raw[start:position])
        if len(requests) > MAX_BATCHED:
            break
    raise InvalidActionError(Problem("requests", f"has more than {MAX_BATCHED} items"))


def _field(raw: bytes, kind: int, position: int) -> tuple[int, int]:
    """Where the value of a field begins and ends."""
    if kind == 0:
        return position, _varint(raw, position)[1]
    size = _FIXED_BYTES.get(kind)
    if kind == 2:
        size, position = _varint(raw, position)
    if size is None or size > len(raw) - position:
        raise _NO_BATCH
    return position, position + size


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), raw[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise _NO_BATCH


_NO_BATCH = InvalidActionError(Problem("request", f"is not a `{pb.EvaluateBatchRequest.DESCRIPTOR.full_name}`"))
