"""The actions with the largest records, and the registry with the largest answers."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.json_format import ParseDict

from pdp import wire
from pdp.core.action import FIELDS, MAX_KEY_CHARACTERS
from pdp.core.errors import InvalidActionError
from pdp.core.kinds import Text
from pdp.core.model import Now
from pdp.decision_log.record import Entry
from pdp.decision_log.redaction import Redaction
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench
from tests.given import NOON, agent
from tests.pdp.actions import AGENT

EVERYTHING = Redaction.of(["x.*", "*.*"])
KINDS = {name: field.kind for name, field in FIELDS.items()}
NAMES = {
    name: "\1" * kind.max_length
    for name, kind in KINDS.items()
    if isinstance(kind, Text) and name not in ("agent_id", "mcp_server")
}
KEY = "\1" * MAX_KEY_CHARACTERS

Filling = Callable[[int], dict[str, Any]]
"""An action's fields; a larger number makes them larger."""


def nested(levels: int, inner: Any) -> Any:
    """`inner` within so many lists."""
    for _ in range(levels):
        inner = [inner]
    return inner


FILLINGS: dict[str, Filling] = {
    "large numbers": lambda size: {"attributes": {"x": [1.7976931348623157e308] * size}},
    "round numbers": lambda size: {"attributes": {"x": [1e308] * size}},
    "small numbers": lambda size: {"attributes": {"x": [-2.2250738585072014e-308] * size}},
    "short numbers": lambda size: {"attributes": {"x": [1] * size}},
    "nulls": lambda size: {"attributes": {"x": [None] * size}},
    "truth": lambda size: {"attributes": {"x": [False] * size}},
    "empty objects": lambda size: {"attributes": {"x": [{}] * size}},
    "keys": lambda size: {"attributes": {"x": {chr(1 + number): None for number in range(size) if number != 0xD7FF}}},
    "many keys": lambda size: {"attributes": {f"\1{number:x}": None for number in range(size)}},
    "control characters": lambda size: {"attributes": {"x": "\1" * size}},
    "quotes": lambda size: {"attributes": {"x": '"' * size}},
    "escapes as text": lambda size: {"attributes": {"x": "\\u0000" * size}},
    "pictures": lambda size: {"attributes": {"x": "😀" * size}},
    "nesting": lambda size: {"attributes": {"x": [nested(13, None)] * size}},
    "classifications": lambda size: {"data_classifications": ["\1" * (size // 64)] * 64},
    "pictures as classifications": lambda size: {"data_classifications": ["😀" * (size // 64)] * 64},
    "names": lambda size: NAMES | {"attributes": {"\1" * size: 1}},
}
BY_GRPC_ALONE: dict[str, Filling] = {"NULs": lambda size: {"attributes": {"\0": "\0" * size}}}


def message(fields: dict[str, Any], **beside: Any) -> bytes:
    """The request as a gRPC message."""
    request = pb.EvaluateRequest(action=pb.Action(agent_id=AGENT, action_type="api.read"), **beside)
    for name, value in fields.items():
        if name == "attributes":
            ParseDict(value, request.action.attributes)
        elif name == "data_classifications":
            request.action.data_classifications.extend(value)
        else:
            setattr(request.action, name, value)
    return request.SerializeToString()


def body(fields: dict[str, Any], **beside: Any) -> bytes:
    """The request as JSON."""
    action = {"agent_id": AGENT, "action_type": "api.read"} | fields
    return json.dumps({"action": action} | beside, ensure_ascii=False).encode()


def largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, to two per cent."""
    high = 1
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 1 + low // 64:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def by_grpc(fields: dict[str, Any], **beside: Any) -> wire.Request | None:
    """The request in bytes of gRPC, None where it is refused."""
    try:
        return wire.read_request(wire.parse(pb.EvaluateRequest, message(fields, **beside)))
    except InvalidActionError:
        return None


@cache
def largest_by_grpc(filling: Filling) -> wire.Request:
    """The largest action of a kind that gRPC takes."""
    request = by_grpc(filling(largest(lambda size: by_grpc(filling(size)) is not None)))
    assert request is not None
    return request


def policy(number: int, **fields: Any) -> dict[str, Any]:
    """A policy that always holds, with the longest names."""
    return {
        "policy_id": f"{number:0>3}" + "\1" * 61,
        "policy_name": f"{number:0>3}" + "\1" * 253,
        "policy_action": "require_approval",
        "created_at": "2026-11-20T12:00:00.000000Z",
        **fields,
    }


def worst_bench(wall: float = NOON) -> Bench:
    """A decision point whose answers are as large as a registry makes them: each asks for an approval."""
    params = {"approvers": ["\1" * 256], "x": [0] * 4500}
    bench = Bench()
    bench.now = Now(wall, bench.now.boot)
    shadows = [policy(number, mode="shadow") for number in range(200)]
    bench.put(agent(AGENT, policies=[*shadows, policy(999, action_params=params)]))
    return bench


def last_entry(bench: Bench) -> Entry:
    """The entry of the decision that was made last; the log forgets it."""
    return bench.log.entries.pop()
