"""The rule that all engines decide, and the actions that they are asked about.

An agent may read data when the risk is below 60, the resource is one of two, and the environment is production. The
sidecar evaluates nine other policies first, of which none holds, and refuses or asks people where the rule does not
hold. Cerbos has the rule alone, in `cerbos/policies/data.yaml`, and refuses everything else.
"""

from typing import Any, NamedTuple

from pdp.v1 import decision_pb2 as pb

AGENT_ID = "billing-reader-production"
RULE = {
    "policy_name": "Reads of two resources in production",
    "policy_action": "allow",
    "priority": 100,
    "conditions": {"risk_below": 60, "resource_in": ["reports", "invoices"], "environment": "production"},
}
OTHERS: tuple[dict[str, Any], ...] = (
    {"amount_above": 10_000},
    {"data_classification": ["pii", "secret"]},
    {"risk_above": 90},
    {"resource_matches": "prod-*"},
    {"mcp_server": "database", "tool_in": ["drop", "truncate"]},
    {"action_type": "transaction.process", "amount_above": 500},
    {"attribute_equals": {"customer.tier": "gold"}},
    {"action_type_in": ["data.write", "secrets.*"]},
    {"environment": "staging", "risk_above": 40},
)
"""Conditions of the policies before the rule."""
AGENT = {
    "agent_id": AGENT_ID,
    "display_name": AGENT_ID,
    "auto_approve_below": 0,
    "max_actions_per_minute": 1_000_000_000,
    "max_actions_per_hour": 1_000_000_000,
    "max_actions_per_day": 1_000_000_000,
    "max_daily_budget_usd": 1_000_000_000,
}
"""Rate limits and a budget that are counted and never reached."""


class Case(NamedTuple):
    """Values of an action, and whether the rule allows it."""

    risk_score: int
    resource: str
    environment: str
    allowed: bool


ALLOWED = Case(20, "reports", "production", allowed=True)
CASES = (
    ALLOWED,
    Case(20, "invoices", "production", allowed=True),
    Case(60, "reports", "production", allowed=False),
    Case(20, "payroll", "production", allowed=False),
    Case(20, "reports", "staging", allowed=False),
)


def policies() -> list[dict[str, Any]]:
    """Ten policies of the registry, the rule last."""
    others = [
        {"policy_name": f"Other {number}", "policy_action": "block", "priority": number, "conditions": conditions}
        for number, conditions in enumerate(OTHERS, 1)
    ]
    return [*others, RULE]


def request(case: Case) -> bytes:
    """The request to a sidecar, whose estimated cost is counted against the budget."""
    action = pb.Action(
        agent_id=AGENT_ID,
        action_type="data.read",
        resource=case.resource,
        risk_score=case.risk_score,
        environment=case.environment,
        estimated_cost_usd=0.001,
    )
    return pb.EvaluateRequest(action=action).SerializeToString()


def cerbos_request(case: Case) -> dict[str, Any]:
    """The request to Cerbos, as JSON and as the fields of its protobuf message."""
    attributes = {"risk_score": case.risk_score, "resource": case.resource, "environment": case.environment}
    resource = {"kind": "data", "id": "1", "attr": attributes}
    return {
        "principal": {"id": AGENT_ID, "roles": ["agent"]},
        "resources": [{"actions": ["data.read"], "resource": resource}],
    }
