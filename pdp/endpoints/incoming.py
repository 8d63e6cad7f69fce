"""Reads requests from bytes, so that a large request never delays the requests of other callers.

Python's JSON and protobuf parsers hold the global lock from the first byte to the last. So their input is bounded in
parsing time and not only in size, and work that takes longer than starting a thread runs in a thread.
"""

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, TypeVar

from pdp import wire
from pdp.core.action import MAX_ACTION_BYTES, Action
from pdp.core.errors import InvalidActionError, Problem
from pdp.core.json import strict_json
from pdp.v1 import decision_pb2 as pb

MAX_REQUEST_BYTES = MAX_ACTION_BYTES + 8 * 1024
"""The size of an action, and of the keys and numbers beside it."""
MAX_BATCHED = 1000
SMALL_BYTES = 4096
"""Reading this much is faster than waking a thread."""
STEP_SECONDS = 0.01
"""How long the steps of one request may keep the others waiting."""

Message = TypeVar("Message", pb.EvaluateRequest, pb.EvaluateStreamRequest, pb.ExplainRequest)
Read = TypeVar("Read")

# These bytes remain in the shortest form of a JSON text, so their number bounds the parsing time.
_STRUCTURE = b',:[]{}"'
_OTHER_BYTES = bytes(set(range(256)) - set(_STRUCTURE))
_REQUESTS_TAG = 1 << 3 | 2
_FIXED_BYTES = {1: 8, 5: 4}


class Reading:
    """Reads small requests at once and large ones in a thread, one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def of(self, size: int, read: Callable[[], Read]) -> Read:
        """The result of `read` for a request of `size` bytes."""
        if size <= SMALL_BYTES:
            return read()
        async with self._turn:
            return await asyncio.to_thread(read)

    async def through(self, size: int, steps: Iterator[Read]) -> list[Read]:
        """What the iterator yields; others have their turn after each 10 ms of its steps."""
        done: list[Read] = []

        def take() -> bool:
            until = perf_counter() + STEP_SECONDS
            for step in steps:
                done.append(step)
                if perf_counter() >= until:
                    return False
            return True

        while not await self.of(size, take):
            pass
        return done


def parse(message_type: type[Message], raw: bytes) -> Message:
    """A message of this type, or `InvalidActionError`; an action is its only large part."""
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidActionError(_TOO_LARGE)
    return wire.parse(message_type, raw)


def read_message(raw: bytes) -> wire.Request:
    """The request in a serialized message, or `InvalidActionError` that names the invalid field."""
    return wire.read_plain(raw) or wire.read_request(parse(pb.EvaluateRequest, raw))


def read_json(body: bytes) -> wire.Request:
    """The request in a JSON text, or `InvalidActionError` with every field that is wrong."""
    return wire.read_json_request(load_json(body))


def read_json_action(body: bytes) -> Action:
    """The action in a JSON text that holds nothing beside it, or `InvalidActionError` as above."""
    return wire.read_json_action(load_json(body))


def load_json(body: bytes, max_structure: int = MAX_REQUEST_BYTES) -> Any:
    """The value of a JSON text, or `InvalidActionError`; `max_structure`: its brackets, commas, colons and quotes."""
    if len(body.translate(None, _OTHER_BYTES)) > max_structure:
        raise InvalidActionError(_TOO_LARGE if max_structure == MAX_REQUEST_BYTES else _TOO_MANY_VALUES)
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise InvalidActionError(Problem("request", f"is not JSON: {error}")) from None


def split_batch(raw: bytes) -> list[bytes]:
    """The requests of an `EvaluateBatchRequest`, each as bytes; parsing all of them at once takes 0.1 s."""
    requests: list[bytes] = []
    position = 0
    for _ in range(2 * MAX_BATCHED):  # limits the number of fields of any kind
        if position == len(raw):
            return requests
        tag, position = _varint(raw, position)
        start, position = _field(raw, tag & 7, position)
        if tag == _REQUESTS_TAG:
            requests.append(raw[start:position])
        if len(requests) > MAX_BATCHED:
            break
    raise InvalidActionError(Problem("requests", f"has more than {MAX_BATCHED} items"))


def _field(raw: bytes, wire_type: int, position: int) -> tuple[int, int]:
    """The start and end of a field's value."""
    if wire_type == 0:
        return position, _varint(raw, position)[1]
    size = _FIXED_BYTES.get(wire_type)
    if wire_type == 2:
        size, position = _varint(raw, position)
    if size is None or size > len(raw) - position:
        raise _NOT_A_BATCH
    return position, position + size


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), raw[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise _NOT_A_BATCH


_TOO_LARGE = Problem("action", f"is larger than {MAX_ACTION_BYTES} bytes")
_TOO_MANY_VALUES = Problem("request", "has too many values")
_NOT_A_BATCH = InvalidActionError(Problem("request", f"is not a `{pb.EvaluateBatchRequest.DESCRIPTOR.full_name}`"))
