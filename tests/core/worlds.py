"""Strategies for records, actions, clocks and histories, with values at and beside every boundary."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from pdp.core.action import Action
from pdp.core.errors import InvalidRecordError
from pdp.core.explanation.situation import Records
from pdp.core.model import Now, RecordKind, StaleMode
from pdp.core.records import read_agent, read_organisation_policy, read_server
from pdp.state import RawRecord, State, build

AGENT_ID = "generated-agent"
ACTION_TYPES = ["api.read", "database.query", "database.", "数据.读"]
RESOURCES = ["ledger", "vault", "prod/db-1", "prod/db-10", "Ünïcode ☂", "a\nb"]
LABELS = ["pii", "public", "secret"]
TOOLS = ["list", "query", "drop", "*"]
SERVERS = ["db", "files", "unknown"]
TAGS = ["eu", "us"]
AGENT_TYPES = ["autonomous", "supervised", "advisory"]
SCORES = [0, 1, 29, 30, 31, 50, 70, 71, 80, 81, 99, 100]
AMOUNTS = [0, 0.01, 9.99, 10, 10.01, 1e15]
CLOCKS = ["00:00", "00:01", "06:00", "12:00", "12:01", "23:59"]
ZONES = ["UTC", "UTC", "UTC", "America/New_York", "Asia/Kolkata", "Africa/Cairo", "Pacific/Auckland", "America/Havana"]
WALLS = [
    1_795_176_000,  # Friday 2026-11-20 12:00 UTC
    1_795_132_800,  # midnight UTC before it
    1_795_150_800,  # midnight in New York
    1_795_113_000,  # midnight in Kolkata
    1_772_953_200,  # the clocks of New York go forward
    1_793_512_800,  # and back
    1_776_981_600,  # the clocks of Cairo go forward, at midnight
    1_793_510_000,  # the hour that New York has twice
    1_772_946_000,  # the last midnight in New York before the change
]
STEPS = [0, 0, 0, 0.001, 0.5, 1, 59, 59.999, 60, 61, 1440, 3599.5, 3600, 3660, 43_200, 86_400, 87_840]
JUMPS = [0, 0, 0, 0, 3600, -3600, 86_400, -86_400]
BOOTS = [0.0, 0.25, 59.999, 61.0, 864_000.0, 1_000_000.7]

CONDITIONS: list[tuple[str, Any]] = [
    *(("action_type", name) for name in (*ACTION_TYPES, *ACTION_TYPES)),
    ("action_type_in", ["api.read", "数据.读"]),
    ("action_type_in", ["database.*"]),
    ("action_type_in", ["api.read", "database.*"]),
    *(("risk_above", score) for score in (0, 29, 30, 70, 99)),
    *(("risk_below", score) for score in (1, 30, 31, 71, 100)),
    *(("amount_above", amount) for amount in (0, 9.99, 10)),
    *(("amount_below", amount) for amount in (0.01, 10, 10.01)),
    ("resource_in", ["ledger", "prod/db-1"]),
    ("resource_not_in", ["ledger", "vault"]),
    *(("resource_matches", glob) for glob in ("*", "prod/*", "prod/db-?", "[lv]*", "a*b")),
    *(("data_classification", label) for label in ("pii", ["pii", "public"])),
    *(("hour_after", hour) for hour in (0, 7, 12, 23)),
    *(("hour_before", hour) for hour in (1, 7, 12, 24)),
    *(("day_in", days) for days in ([5], [6, 7], [1, 2, 3, 4, 5])),
    *(("mcp_server", server) for server in SERVERS),
    *(("tool_in", tools) for tools in (["drop"], ["list", "query"])),
    *(("attribute_equals", wanted) for wanted in ({"a": 1}, {"a.b": None, "c": [1, {"d": True}]}, {"名": "x"})),
    *(("environment", name) for name in ("production", "test")),
]
ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"a": 1.0, "c": [1, {"d": True}]},
    {"a": True},
    {"a": {"b": None}, "c": [1, {"d": True}]},
    {"a": {"b": None}, "c": [1, {"d": 1}]},
    {"名": "x"},
]


def some(pool: list[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    """Zero or more distinct values of a pool."""
    return st.lists(st.sampled_from(pool), max_size=most, unique_by=json.dumps)


def one(pool: list[Any]) -> st.SearchStrategy[Any]:
    """One of a pool."""
    return st.sampled_from(pool)


def _thresholds(given: dict[str, Any]) -> dict[str, Any]:
    """The same agent with its thresholds in an order that the registry accepts."""
    for low, high in (
        ("auto_approve_below", "max_risk_threshold"),
        ("autonomous_auto_approve_below", "autonomous_max_risk_threshold"),
    ):
        given[low], given[high] = sorted((given[low], given[high]))
    if given["time_window_start"] == given["time_window_end"]:
        given["time_window_end"] = "24:00"
    return given


RESTRICTIONS: dict[str, dict[str, Any]] = {
    "status": {"status": "active"},
    "action types": {"allowed_action_types": []},
    "resources": {"allowed_resources": [], "blocked_resources": []},
    "data": {"allowed_data_classifications": [], "blocked_data_classifications": []},
    "capabilities": {"mcp_capabilities": {}},
    "window": {"time_window_enabled": False},
    "rates": {"max_actions_per_minute": None, "max_actions_per_hour": None, "max_actions_per_day": None},
    "budget": {"max_daily_budget_usd": None},
}


def _restricted(agent: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    """The agent with few of its restrictions, so that the late stages are reached as often as the early ones."""
    for name, nothing in RESTRICTIONS.items():
        agent |= {} if name in kept else nothing
    return agent


conditions = st.lists(one(CONDITIONS), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(dict)

policies = st.fixed_dictionaries(
    {
        "conditions": st.one_of(conditions, conditions, conditions, st.just({})),
        "policy_action": one(["allow", "require_approval", "block", "escalate"]),
        "priority": one([1, 1, 2, 100]),
        "mode": one(["enforce", "enforce", "shadow"]),
        "on_missing": one(["no_match", "match"]),
        "is_active": one([True, True, True, False]),
        "created_at": one([f"2026-01-01T00:00:00.00000{n}Z" for n in (1, 2)]),
    }
)
organisation_policies = st.tuples(
    policies, st.fixed_dictionaries({"tags": some(TAGS, 1), "agent_types": some(AGENT_TYPES, 1)})
).map(lambda pair: pair[0] | {"applies_to": pair[1]})

configurations = st.fixed_dictionaries(
    {
        "status": one(["active", "active", "active", "active", "draft", "suspended", "retired"]),
        "agent_type": one(AGENT_TYPES),
        "tags": some(TAGS, 2),
        "allowed_action_types": some(ACTION_TYPES, 5),
        "allowed_resources": some(RESOURCES, 5),
        "blocked_resources": some(RESOURCES, 1),
        "mcp_capabilities": st.dictionaries(one(SERVERS), some(TOOLS, 3), max_size=2),
        "default_risk_score": one(SCORES),
        "action_risk_scores": st.one_of(st.just({}), st.dictionaries(one(ACTION_TYPES), one(SCORES), max_size=2)),
        "auto_approve_below": one(SCORES),
        "max_risk_threshold": one(SCORES),
        "requires_mfa_above": one(SCORES),
        "autonomous_auto_approve_below": one(SCORES),
        "autonomous_max_risk_threshold": one(SCORES),
        "max_actions_per_minute": one([None, 0, 1, 1, 2, 3]),
        "max_actions_per_hour": one([None, 1, 2, 3]),
        "max_actions_per_day": one([None, 1, 2, 5]),
        "max_daily_budget_usd": one([None, 0, 0.000001, 1, 2.5]),
        "time_window_enabled": one([True, True, True, False]),
        "time_window_start": one(CLOCKS),
        "time_window_end": one(CLOCKS),
        "time_window_timezone": one(ZONES),
        "time_window_days": one([[1, 2, 3, 4, 5], [5], [6, 7], [1, 2, 3, 4, 5, 6, 7]]),
        "allowed_data_classifications": some(LABELS, 2),
        "blocked_data_classifications": some(LABELS, 1),
        "policies": st.lists(policies, max_size=3),
    }
)
FOCI: dict[str, st.SearchStrategy[set[str]]] = {
    "policies": st.just(set()),
    "lists": st.just({"action types", "resources", "data", "capabilities"}),
    "window": st.just({"window"}),
    "counts": st.sets(one(["rates", "budget"]), min_size=1),
    "several": st.sets(one(list(RESTRICTIONS)), max_size=4),
}
"""Which restrictions an agent has; each a test of its own, since hypothesis by itself tries some far too seldom."""

servers = st.fixed_dictionaries(
    {
        "governance_enabled": one([True, True, False]),
        "auto_approve_tools": one([[], ["list"], ["list", "query"]]),
        "blocked_tools": one([[], ["drop"]]),
        "tool_risk_overrides": st.one_of(st.just({}), st.dictionaries(one(TOOLS), one(SCORES), max_size=2)),
    }
)

actions = st.builds(
    Action,
    agent_id=st.just(AGENT_ID),
    action_type=one(ACTION_TYPES),
    resource=one(["", *RESOURCES]),
    risk_score=one([None, *SCORES]),
    amount=one([None, *AMOUNTS]),
    estimated_cost_micros=one([None, 0, 1, 1_000_000, 1_000_000, 2_500_000, 2_500_001]),
    data_classifications=some(LABELS, 2).map(tuple),
    mcp_server=one(["", "", "", "db", "db", "db", "db", "files", "unknown"]),
    tool=one(["", "list", "list", "query", "drop"]),
    environment=one(["", "production", "staging"]),
    attributes=one(ATTRIBUTES),
    mfa_verified=st.booleans(),
)


@dataclass(frozen=True)
class World:
    """The same records twice: compiled in a state, and as they are."""

    state: State
    records: Records


def _world(agent: dict[str, Any], organisation: list[dict[str, Any]], given: dict[str, dict[str, Any]]) -> World:
    about = {"agent_id": AGENT_ID, "display_name": "generated", "version": "1.0.0"}
    agent = about | agent | {"policies": _sound(agent["policies"], "own")}
    organisation = _sound(organisation, "organisation")
    documents = [{"server_name": name} | rules for name, rules in given.items()]
    raw = [RawRecord(RecordKind.AGENT, AGENT_ID, json.dumps(agent).encode())]
    raw += [
        RawRecord(RecordKind.ORGANISATION_POLICY, one["policy_id"], json.dumps(one).encode()) for one in organisation
    ]
    raw += [RawRecord(RecordKind.MCP_SERVER, one["server_name"], json.dumps(one).encode()) for one in documents]
    state, refused = build(raw, "epoch", 1)
    assert not refused, refused
    records = Records(
        read_agent(agent),
        tuple(map(read_organisation_policy, organisation)),
        {one["server_name"]: read_server(one) for one in documents},
    )
    return World(state, records)


def _sound(given: list[dict[str, Any]], whose: str) -> list[dict[str, Any]]:
    """Those of the policies that the registry accepts, with names and ids."""
    found = []
    for number, policy in enumerate(given):
        named = policy | {"policy_id": f"{whose}-{number}", "policy_name": f"{whose} {number}"}
        try:
            read_organisation_policy(named)
        except InvalidRecordError:  # risk above 70 and below 30, and the like
            continue
        found.append(named)
    return found


def worlds(focus: str) -> st.SearchStrategy[World]:
    """Records of an agent with the restrictions of a focus."""
    agents = st.builds(_restricted, configurations.map(_thresholds), FOCI[focus])
    organisation = st.lists(organisation_policies, max_size=3)
    return st.builds(_world, agents, organisation, st.fixed_dictionaries({"db": servers}, optional={"files": servers}))


@dataclass(frozen=True)
class Turn:
    """One action of a sequence and how the clocks move before it; `retry`: to when the last refusal said."""

    action: Action
    after: float
    jump: float
    repeat: bool
    retry: bool
    dry_run: bool
    approved: bool
    stale: StaleMode | None


turns = st.builds(
    Turn,
    actions,
    one(STEPS),
    one(JUMPS),
    st.booleans(),
    st.booleans(),
    one([False, False, False, True]),
    one([False, False, True]),
    one([None, None, None, None, *StaleMode]),
)
starts = st.builds(
    lambda wall, beside, boot: Now(wall + beside, boot),
    one(WALLS),
    one([-1, -0.001, 0, 0, 1, 59, 60, 21_600]),
    one(BOOTS),
)
turns_in_a_row = st.lists(turns, min_size=3, max_size=12)


def sequences(focus: str) -> st.SearchStrategy[tuple[World, Now, list[Turn]]]:
    """Records, a time to start at, and actions one after the other."""
    return st.tuples(worlds(focus), starts, turns_in_a_row)
