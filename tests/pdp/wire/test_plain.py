"""A plain request is read from its bytes as protobuf reads it, and every other one is left to protobuf."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp import wire
from pdp.core.action import FIELDS, REQUEST
from pdp.core.errors import InvalidActionError
from pdp.core.kinds import Text
from pdp.endpoints import incoming
from pdp.v1 import decision_pb2 as pb
from pdp.wire.plain import MAX_BYTES, MAX_TEXT_BYTES

texts = st.text(st.characters(codec="utf-8"), max_size=130)
short = st.text(max_size=10)
doubles = st.floats() | st.sampled_from([0.0, -0.0, 0.5, 0.001, 1e9, 1e9 + 1, 1e308, float("inf"), float("nan")])
values = st.recursive(
    st.none() | st.booleans() | doubles | short,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(short, inner, max_size=2),
    max_leaves=4,
)
actions = st.builds(
    pb.Action,
    agent_id=st.just("billing-reader") | texts,
    action_type=st.just("data.read") | texts,
    resource=texts,
    resource_id=short,
    risk_score=st.none() | st.integers(-2, 130) | st.integers(-(2**31), 2**31 - 1),
    amount=st.none() | doubles,
    estimated_cost_usd=st.none() | doubles,
    data_classifications=st.lists(short, max_size=3) | st.lists(st.just("x"), min_size=63, max_size=66),
    mcp_server=short,
    tool=short,
    environment=short,
    attributes=st.none() | st.dictionaries(short, values, max_size=2),
    mfa_verified=st.booleans(),
)
requests = st.builds(
    pb.EvaluateRequest,
    action=actions,
    idempotency_key=short | texts,
    approval_id=short | texts,
    dry_run=st.booleans(),
)


def by_protobuf(raw: bytes) -> wire.Request | str:
    """The request as a message has it, or what is wrong with it."""
    try:
        return wire.read_request(incoming.parse(pb.EvaluateRequest, raw))
    except InvalidActionError as error:
        return str(error)


def agrees(raw: bytes) -> bool:
    """Whether the request is plain; then both readers have the same values, of the same types."""
    read, expected = wire.read_plain(raw), by_protobuf(raw)
    if read is None:
        return False
    assert isinstance(expected, wire.Request)
    assert repr(read._replace(raw=b"")) == repr(expected._replace(raw=b""))
    assert read.raw == raw
    kept = pb.EvaluateRequest.FromString(raw)
    kept.DiscardUnknownFields()
    assert kept.SerializeToString() == expected.raw
    return True


@given(requests)
def test_a_plain_request_has_the_values_that_protobuf_reads(message: pb.EvaluateRequest) -> None:
    """Whatever is given, and whatever is out of bounds: then it is not plain."""
    agrees(message.SerializeToString())


@given(requests.map(pb.EvaluateRequest.SerializeToString), st.data())
def test_bytes_that_are_changed_are_read_alike(raw: bytes, data: st.DataObject) -> None:
    """A byte changed, bytes cut out, and bytes doubled: fields out of order, twice, unknown, and too long."""
    if not raw:
        return
    at = data.draw(st.integers(0, len(raw) - 1))
    until = data.draw(st.integers(at, min(len(raw), at + 20)))
    changed = data.draw(st.integers(0, 255))
    agrees(raw[:at] + bytes((changed,)) + raw[at + 1 :])
    agrees(raw[:at] + raw[until:])
    agrees(raw[:until] + raw[at:])
    agrees(raw[:at])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_alike(raw: bytes) -> None:
    """Alone, and as an action."""
    agrees(raw)
    agrees(b"\x0a" + bytes((len(raw),)) + raw)


PLAIN = {
    "agent_id": "billing-reader",
    "action_type": "data.read",
    "resource": "r" * MAX_TEXT_BYTES,
    "resource_id": "ä",
    "risk_score": 100,
    "amount": 12.5,
    "estimated_cost_usd": 1e9,
    "data_classifications": ["pii"] * 64,
    "mcp_server": "db",
    "tool": "select",
    "environment": "production",
    "attributes": {"customer": {"tier": "gold", "since": 2019, "tags": [None, True, "\0"]}, "note": "n" * 200},
    "mfa_verified": True,
}


@pytest.mark.parametrize("left_out", [None, *sorted(PLAIN.keys() - {"agent_id", "action_type"})])
def test_most_requests_are_plain(left_out: str | None) -> None:
    """With any of the fields, in one or two bytes of length."""
    fields: dict[str, Any] = {name: value for name, value in PLAIN.items() if name != left_out}
    message = pb.EvaluateRequest(action=pb.Action(**fields), idempotency_key="k-1", approval_id="a-1", dry_run=True)
    assert agrees(message.SerializeToString())
    assert agrees(pb.EvaluateRequest(action=message.action).SerializeToString())


@pytest.mark.parametrize("name", FIELDS)
def test_a_plain_request_may_have_any_one_field(name: str) -> None:
    """Beside those that are required."""
    fields: dict[str, Any] = {part: PLAIN[part] for part in ("agent_id", "action_type", name)}
    assert agrees(pb.EvaluateRequest(action=pb.Action(**fields)).SerializeToString())


NOT_PLAIN = {
    "an unknown field": b"\x7a\x01x",
    "a field twice": b"\x5a\x01x\x5a\x01y",
    "out of order": b"\x5a\x01x\x52\x01y",
    "a text of another wire type": b"\x58\x01",
    "a NUL": b"\x5a\x01\x00",
    "no UTF-8": b"\x5a\x01\xff",
    "an unknown field in attributes": b"\x62\x03\x7a\x01x",
    "an attribute twice": b"\x62\x0a" + b"\x0a\x03\x0a\x01k" * 2,
    "an attribute that is no number": b"\x62\x10\x0a\x0e\x0a\x01k\x12\x09\x11" + struct.pack("<d", math.nan),
    "attributes beyond the action": b"\x62\x05x",
    "a length beyond the action": b"\x5a\x05x",
    "a truth of 2": b"\x68\x02",
}


@pytest.mark.parametrize("more", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_is_left_to_protobuf(more: bytes) -> None:
    """It reads it, or says what is wrong."""
    action = pb.Action(agent_id="billing-reader", action_type="data.read").SerializeToString() + more
    assert wire.read_plain(b"\x0a" + bytes((len(action),)) + action) is None


def test_a_large_request_is_not_plain() -> None:
    """It would keep others waiting: the endpoint reads it in a thread."""
    sizes = []
    for length in range(MAX_BYTES - 100, MAX_BYTES + 1):
        action = pb.Action(agent_id="billing-reader", action_type="data.read", attributes={"note": "n" * length})
        raw = pb.EvaluateRequest(action=action).SerializeToString()
        assert agrees(raw) == (len(raw) <= MAX_BYTES)
        sizes.append(len(raw))
    assert MAX_BYTES in sizes


def test_attributes_that_are_nested_too_deep_are_left_to_protobuf() -> None:
    """Sixteen levels are plain, and seventeen are refused with the name of the field."""
    for levels in (16, 17):
        value: Any = "leaf"
        for _ in range(levels - 1):
            value = {"inner": value}
        action = pb.Action(agent_id="billing-reader", action_type="data.read", attributes={"outer": value})
        assert agrees(pb.EvaluateRequest(action=action).SerializeToString()) == (levels == 16)


def test_every_bound_is_within_one_byte_of_length() -> None:
    """No text of an action or a request may be shorter than its field allows and still pass."""
    named = {name: field.kind for name, field in (FIELDS | REQUEST).items() if isinstance(field.kind, Text)}
    for name, kind in named.items():
        text = "x" * (min(kind.max_length, MAX_TEXT_BYTES) + 1)
        fields = {"agent_id": "billing-reader", "action_type": "data.read"}
        beside = {} if name in FIELDS else {name: text}
        action = pb.Action(**(fields | ({name: text} if name in FIELDS else {})))
        assert wire.read_plain(pb.EvaluateRequest(action=action, **beside).SerializeToString()) is None, name
