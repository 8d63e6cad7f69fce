"""An organisation policy that cannot be parsed still restricts."""

import json
from typing import Any

import pytest

from pdp.core.action import Action
from pdp.core.decide import decide
from pdp.core.model import Now, Outcome, RecordKind
from pdp.core.usage import Usage
from pdp.state import RawRecord, State, apply, build
from tests.given import NOON, agent

READABLE = {
    "policy_id": "pol_1",
    "policy_name": "Newer",
    "created_at": "2026-01-01T00:00:00.000000Z",
    "policy_action": "escalate",
    "conditions": {"risk_above": 98},
}
UNREADABLE = READABLE | {"conditions": {"operator_of_next_year": 1}}


def agents() -> list[RawRecord]:
    tagged = agent("payments-writer-prod", tags=["payments"])
    return [RawRecord(RecordKind.AGENT, one["agent_id"], json.dumps(one).encode()) for one in (agent(), tagged)]


def policy(document: object) -> RawRecord:
    return RawRecord(RecordKind.ORGANISATION_POLICY, "pol_1", json.dumps(document).encode())


def outcome(state: State, agent_id: str = "billing-reader-test") -> Outcome:
    action = Action(agent_id, "api.read", risk_score=1)
    return decide(state.agents[agent_id], state.servers, action, Usage(), Now(NOON, 1.0)).outcome


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (UNREADABLE, Outcome.ESCALATE),
        (UNREADABLE | {"policy_action": "sing"}, Outcome.BLOCK),
        (UNREADABLE | {"field_of_next_year": 1, "priority": "high"}, Outcome.ESCALATE),
        (UNREADABLE | {"policy_action": "allow"}, Outcome.ALLOW),
        (UNREADABLE | {"mode": "shadow"}, Outcome.ALLOW),
        (UNREADABLE | {"is_active": False}, Outcome.ALLOW),
        ([], Outcome.BLOCK),
        ("no object", Outcome.BLOCK),
    ],
    ids=str,
)
def test_a_placeholder_holds_for_every_action(document: object, expected: Outcome) -> None:
    """It keeps the policy's action if that is valid, else it blocks; a policy that restricts nothing has none."""
    state, refused = build([*agents(), policy(document)], "epoch", 1)
    assert len(refused) == 1
    assert outcome(state) is expected


def test_a_placeholder_binds_the_agents_of_its_selector() -> None:
    """If the selector is valid; other agents are not affected."""
    document: dict[str, Any] = UNREADABLE | {"applies_to": {"tags": ["payments"]}}
    state, _ = build([*agents(), policy(document)], "epoch", 1)
    assert (outcome(state), outcome(state, "payments-writer-prod")) == (Outcome.ALLOW, Outcome.ESCALATE)


def test_a_placeholder_survives_a_restart_until_the_policy_can_be_parsed() -> None:
    """A start without the store restricts as much; the next valid policy replaces it."""
    state, _ = build([*agents(), policy(UNREADABLE)], "epoch", 1)
    again, refused = build(state.records(), "epoch", 1)
    assert (outcome(again), refused) == (Outcome.ESCALATE, ())
    after, _ = apply(again, [policy(READABLE)], 2)
    assert outcome(after) is Outcome.ALLOW


def test_the_last_good_state_comes_before_the_placeholder() -> None:
    """A policy that was valid before stays in force."""
    state, _ = build([*agents(), policy(READABLE)], "epoch", 1)
    after, refused = apply(state, [policy(UNREADABLE)], 2)
    assert (outcome(after), len(refused)) == (Outcome.ALLOW, 1)
