"""An action is the same by every endpoint."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings

from pdp import wire
from pdp.core.json import canonical_json
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench, served, shown
from tests.given import agent
from tests.pdp.actions import AGENT, actions, by_connect, by_grpc, by_json

POLICIES = [
    ("amount", {"amount_above": 7499.5}),
    ("large", {"attribute_equals": {"account": 2**53 + 1}}),
    ("nested", {"attribute_equals": {"x": {"y": [1, -0.0, 1e21]}}}),
]


def bench() -> Bench:
    """A decision point with a policy on numbers."""
    made = Bench()
    policies = [
        {
            "policy_id": f"pol-{name}",
            "policy_name": name,
            "conditions": conditions,
            "policy_action": "block",
            "created_at": "2026-11-20T12:00:00.000000Z",
        }
        for name, conditions in POLICIES
    ]
    made.put(agent(AGENT, policies=policies))
    return made


BENCH = bench()
READS = (by_grpc, by_json, by_connect)


def decided(request: wire.Request) -> tuple[Any, ...]:
    answer = BENCH.evaluate(request)
    entry = BENCH.log.entries.pop()
    return answer.outcome, answer.reason, answer.policy.name, answer.risk_score, entry.cost_micros


@settings(max_examples=300, deadline=None)
@given(actions)
def test_an_action_has_one_digest_and_one_decision_by_every_endpoint(action: dict[str, Any]) -> None:
    """And one record; its digest is that of the action in the record, in the form of RFC 8785."""
    by_each = [read(action) for read in READS]
    assert len({wire.digest(request.action) for request in by_each}) == 1
    assert len({decided(request) for request in by_each}) == 1
    written = []
    for request in by_each:
        BENCH.service.point.evaluate(request)
        written.append(shown(BENCH.log.entries.pop()))
    assert wire.digest(by_each[0].action) == hashlib.sha256(canonical_json.dumps(written[0]["action"])).digest()
    assert len({canonical_json.dumps(without_ids(record)) for record in written}) == 1


def without_ids(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is another one for each decision: its ids, and how long it took."""
    kept = {name: value for name, value in record.items() if name not in ("decision_id", "latency_seconds")}
    kept["answer"] = record["answer"] | {"decision_id": "", "approval_id": bool(record["answer"]["approval_id"])}
    kept["opens"] = record["opens"] and record["opens"] | {"approval_id": ""}
    return kept


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"amount": 7500}, {"amount": 7500.0}),
        ({"amount": 10**21}, {"amount": 1e21}),
        ({"amount": -0.0}, {"amount": 0}),
        ({"estimated_cost_usd": 1}, {"estimated_cost_usd": 1.0}),
        ({"attributes": {"n": 1}}, {"attributes": {"n": 1.0}}),
        ({"attributes": {"n": [1e21, -0.0]}}, {"attributes": {"n": [10**21, 0]}}),
        ({"attributes": {"account": 2**53 + 1}}, {"attributes": {"account": 2**53}}),
        ({"attributes": {"a": 1, "b": 2}}, {"attributes": {"b": 2, "a": 1}}),
    ],
)
def test_equal_numbers_make_equal_actions(one: dict[str, Any], other: dict[str, Any]) -> None:
    """In any notation, and by every endpoint."""
    asked = {"agent_id": AGENT, "action_type": "api.read"}
    reads = [read(asked | fields) for read in READS for fields in (one, other)]
    assert len({wire.digest(request.action) for request in reads}) == 1
    assert len({decided(request) for request in reads}) == 1


async def test_a_retry_by_the_other_endpoint_gets_the_first_answer() -> None:
    """An idempotency key means the same action there."""
    made = bench()
    action = {"agent_id": AGENT, "action_type": "api.read", "amount": 7000, "attributes": {"n": 1e21}}
    body = json.dumps({"action": action, "idempotency_key": "k"}).encode()
    status, first = await made.service.evaluate_json(body)
    assert status == 200
    message = pb.EvaluateRequest(idempotency_key="k")
    message.action.agent_id, message.action.action_type, message.action.amount = AGENT, "api.read", 7000
    message.action.attributes.update({"n": 1e21})
    async with served(made.service) as stub:
        again = await stub.Evaluate(message)
    assert again.decision_id == first["decision_id"]


def test_a_policy_on_a_number_that_no_double_holds_holds_for_its_double() -> None:
    """Otherwise one endpoint would block the action and the other would allow it."""
    asked = {"agent_id": AGENT, "action_type": "api.read", "attributes": {"account": 2**53 + 1}}
    assert {decided(read(asked))[2] for read in READS} == {"large"}
