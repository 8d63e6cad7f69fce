"""Generated registries: agents with their policies, organisation policies and MCP servers, each valid."""

from typing import Any

from hypothesis import strategies as st

from pdp.core.model import AgentType, LimitScope, Mode, OnMissing, OnQuotaUnavailable, Outcome, Transport

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12) | st.sampled_from(
    ["no", "null", "17:00", "2026-01-31", "1e5", "*", "a: b", "- x", "#", "a b/c"]
)
LISTS = st.lists(NAMES, max_size=3, unique=True)
SCORES = st.integers(0, 100)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "action_type": NAMES.filter(lambda name: "*" not in name),
        "risk_above": st.integers(0, 99),
        "amount_above": st.floats(0, 1e9) | st.integers(0, 10**9),
        "resource_in": st.lists(NAMES, min_size=1, max_size=3, unique=True),
        "hour_after": st.integers(0, 23),
        "day_in": st.lists(st.integers(1, 7), min_size=1, max_size=7, unique=True),
        "environment": NAMES,
    },
)


def choice(options: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([option.name.lower() for option in options])


POLICY_FIELDS = {
    "policy_description": TEXTS,
    "is_active": st.booleans(),
    "priority": st.integers(0, 1_000_000),
    "conditions": CONDITIONS,
    "action_params": st.fixed_dictionaries(
        {},
        optional={
            "approvers": st.lists(NAMES, max_size=2, unique=True),
            "timeout_seconds": st.integers(1, 2_592_000),
            "team": NAMES,
            "next_team": NAMES,
            "min_approvers": st.integers(1, 64),
            "own": JSON,
        },
    ),
    "mode": choice(Mode),
    "on_missing": choice(OnMissing),
}
SELECTORS = st.fixed_dictionaries(
    {}, optional={"tags": LISTS, "agent_types": st.lists(choice(AgentType), max_size=2, unique=True)}
)


def policies(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    body = st.fixed_dictionaries(
        {"policy_name": NAMES, "policy_action": choice(Outcome)}, optional={**POLICY_FIELDS, **more}
    )
    return st.lists(body, max_size=3, unique_by=lambda policy: policy["policy_name"])


AGENTS = st.fixed_dictionaries(
    {"display_name": NAMES},
    optional={
        "description": TEXTS,
        "agent_type": choice(AgentType),
        "tags": LISTS,
        "metadata": OBJECTS,
        "allowed_resources": LISTS,
        "mcp_capabilities": st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.-]{0,5}", fullmatch=True), LISTS, max_size=2),
        "action_risk_scores": st.dictionaries(NAMES, SCORES, max_size=3),
        "auto_approve_below": st.integers(0, 30),
        "max_actions_per_hour": st.none() | st.integers(0, 10**9),
        "limit_scope": choice(LimitScope),
        "on_quota_unavailable": choice(OnQuotaUnavailable),
        "max_daily_budget_usd": st.none() | st.decimals(0, 10**6, places=2).map(float),
        "time_window_start": st.times().map(lambda time: f"{time:%H:%M}").filter(lambda text: text != "17:00"),
        "time_window_days": st.lists(st.integers(1, 7), min_size=1, unique=True),
        "time_window_timezone": st.sampled_from(["UTC", "Europe/Berlin"]),
        "auto_suspend_on_error_rate": st.none() | st.floats(0, 1),
        "escalation_team": NAMES | st.just(""),
        "webhook_url": st.none() | st.just("https://hooks.example.com/x?y=no"),
        "status": st.sampled_from(["draft", "active", "suspended"]),
        "policies": policies(),
    },
)
SERVERS = st.fixed_dictionaries(
    {},
    optional={
        "display_name": TEXTS,
        "server_url": TEXTS,
        "transport_type": choice(Transport),
        "governance_enabled": st.booleans(),
        "blocked_tools": LISTS,
        "tool_risk_overrides": st.dictionaries(NAMES, SCORES, max_size=3),
    },
)


@st.composite
def registries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Documents as a folder holds them; agents and servers get ids that the test makes unique."""
    found: list[dict[str, Any]] = []
    for number, agent in enumerate(draw(st.lists(AGENTS, max_size=3))):
        found.append({"kind": "agent", "agent_id": f"agent-{number}", **agent})
    for policy in draw(policies(applies_to=SELECTORS)):
        found.append({"kind": "organisation_policy", **policy})
    for number, server in enumerate(draw(st.lists(SERVERS, max_size=2))):
        found.append({"kind": "mcp_server", "server_name": f"server-{number}", **server})
    return found
