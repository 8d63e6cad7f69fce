"""Actions from hypothesis, sent by gRPC and as JSON."""

import json
from typing import Any

from google.protobuf.json_format import ParseDict
from hypothesis import strategies as st

from pdp import wire
from pdp.core.json import strict_json
from pdp.endpoints import proto_json
from pdp.v1 import decision_pb2 as pb

AGENT = "billing-reader-test"

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
doubles = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(
    doubles,
    doubles.map(lambda number: float(f"{number:.3g}")).filter(lambda number: abs(number) < 1e308),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 7500, 7500.0, 1, 1.0, 1e21, 10**21, 1e308, 10**308, 2**53, 2**53 + 1, 5e-324, 1e-5]),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)
not_negative = numbers.map(abs)
actions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"agent_id": st.just(AGENT), "action_type": texts.filter(bool)},
    optional={
        "resource": texts,
        "resource_id": texts,
        "risk_score": st.integers(0, 100),
        "amount": not_negative,
        "estimated_cost_usd": st.one_of(st.integers(0, 10**9), st.floats(0, 1e9)),
        "data_classifications": st.lists(texts, max_size=4),
        "mcp_server": texts,
        "tool": texts,
        "environment": texts,
        "attributes": st.dictionaries(texts, values, max_size=5),
        "mfa_verified": st.booleans(),
    },
)


def by_grpc(action: dict[str, Any]) -> wire.Request:
    """The request as a gRPC message."""
    fields = dict(action)
    message = pb.EvaluateRequest(action=pb.Action(**{name: fields[name] for name in fields if name != "attributes"}))
    if "attributes" in fields:
        ParseDict(fields["attributes"], message.action.attributes)
    return wire.read_request(wire.parse(pb.EvaluateRequest, message.SerializeToString()))


def by_json(action: dict[str, Any]) -> wire.Request:
    """The request as JSON."""
    return wire.read_json_request(strict_json.loads(json.dumps({"action": action}).encode()))


def by_connect(action: dict[str, Any]) -> wire.Request:
    """The request as protobuf's JSON."""
    named = {pb.Action.DESCRIPTOR.fields_by_name[name].json_name: value for name, value in action.items()}
    message = pb.EvaluateRequest()
    for _ in proto_json.read(message, strict_json.loads(json.dumps({"action": named}).encode())):
        pass
    return wire.read_request(wire.parse(pb.EvaluateRequest, message.SerializeToString()))
