"""Documents → records: every field with its default and bounds, every fault with its path."""

from decimal import Decimal
from typing import Any

import pytest

from pdp.core.decision import Demand, demand_of
from pdp.core.errors import InvalidRecordError
from pdp.core.model import (
    AgentRecord,
    AgentType,
    LimitScope,
    Mode,
    OnMissing,
    OnQuotaUnavailable,
    Outcome,
    PolicyRecord,
    Selector,
    ServerRecord,
    Status,
    Transport,
)
from pdp.core.records import (
    read_agent,
    read_configuration,
    read_organisation_policy,
    read_organisation_policy_body,
    read_policy,
    read_policy_body,
    read_server,
    read_server_body,
)

AGENT = {"agent_id": "abc", "display_name": "An agent"}
POLICY = {"policy_name": "p", "policy_action": "block"}
SYNCED = POLICY | {"policy_id": "1", "created_at": "2026-01-01T00:00:00.000000Z"}
SERVER = {"server_name": "db"}

CONFIGURATION_DEFAULTS = {
    "agent_id": "abc",
    "display_name": "An agent",
    "description": "",
    "agent_type": AgentType.SUPERVISED,
    "tags": (),
    "metadata": {},
    "allowed_action_types": (),
    "allowed_resources": (),
    "blocked_resources": (),
    "mcp_capabilities": {},
    "default_risk_score": 50,
    "action_risk_scores": {},
    "auto_approve_below": 30,
    "max_risk_threshold": 80,
    "requires_mfa_above": 70,
    "autonomous_auto_approve_below": 40,
    "autonomous_max_risk_threshold": 60,
    "max_actions_per_minute": 100,
    "max_actions_per_hour": 1000,
    "max_actions_per_day": 10000,
    "limit_scope": LimitScope.AGENT,
    "on_quota_unavailable": OnQuotaUnavailable.FAIR_SHARE,
    "max_daily_budget_usd": None,
    "budget_alert_threshold_percent": 80,
    "time_window_enabled": False,
    "time_window_start": "09:00",
    "time_window_end": "17:00",
    "time_window_timezone": "UTC",
    "time_window_days": (1, 2, 3, 4, 5),
    "allowed_data_classifications": (),
    "blocked_data_classifications": (),
    "auto_suspend_enabled": False,
    "auto_suspend_on_error_rate": None,
    "auto_suspend_on_offline_minutes": None,
    "auto_suspend_on_budget_exceeded": False,
    "auto_suspend_on_rate_exceeded": False,
    "alert_on_high_risk": False,
    "alert_recipients": (),
    "webhook_url": None,
    "escalation_team": "",
}
POLICY_DEFAULTS = {
    "policy_name": "p",
    "policy_description": "",
    "is_active": True,
    "priority": 100,
    "conditions": {},
    "policy_action": Outcome.BLOCK,
    "action_params": {},
    "mode": Mode.ENFORCE,
    "on_missing": OnMissing.NO_MATCH,
}
SERVER_DEFAULTS = {
    "server_name": "db",
    "display_name": "",
    "description": "",
    "server_url": "",
    "transport_type": Transport.HTTP,
    "governance_enabled": True,
    "auto_approve_tools": (),
    "blocked_tools": (),
    "tool_risk_overrides": {},
}


def test_a_record_of_required_fields_has_every_default() -> None:
    """The defaults of the contract, in its order."""
    assert list(read_configuration(AGENT).items()) == list(CONFIGURATION_DEFAULTS.items())
    assert list(read_policy_body(POLICY).items()) == list(POLICY_DEFAULTS.items())
    assert list(read_server_body(SERVER).items()) == list(SERVER_DEFAULTS.items())
    applies_to = {"applies_to": {"tags": (), "agent_types": ()}}
    assert read_organisation_policy_body(POLICY) == POLICY_DEFAULTS | applies_to


def test_a_synced_document_is_a_record() -> None:
    """With its status, version and policies; an agent's own policies have no selector."""
    agent = read_agent(AGENT | {"status": "active", "version": "1.2.0", "policies": [SYNCED]})
    policy = PolicyRecord(**POLICY_DEFAULTS, policy_id="1", created_at="2026-01-01T00:00:00.000000Z")
    assert agent == AgentRecord(
        **CONFIGURATION_DEFAULTS, status=Status.ACTIVE, version="1.2.0", activations=0, policies=(policy,)
    )
    assert policy.applies_to is None
    bare = read_agent(AGENT | {"status": "draft", "version": "1.0.0"})
    assert (bare.policies, bare.status) == ((), Status.DRAFT)
    assert read_server(SERVER) == ServerRecord(**SERVER_DEFAULTS)
    everywhere = read_organisation_policy(SYNCED)
    assert everywhere.applies_to == Selector((), ())
    chosen = read_organisation_policy(SYNCED | {"applies_to": {"tags": ["eu"], "agent_types": ["custom"]}})
    assert chosen.applies_to == Selector(("eu",), (AgentType.CUSTOM,))


def test_values_are_converted_to_the_types_of_the_core() -> None:
    """Enums, tuples and decimals."""
    given = {
        "agent_type": "mcp_server",
        "limit_scope": "sidecar",
        "on_quota_unavailable": "block",
        "tags": ["a", "b"],
        "max_daily_budget_usd": 0.1,
        "mcp_capabilities": {"db": ["x"]},
        "max_actions_per_minute": None,
        "time_window_end": "24:00",
        "webhook_url": "https://example.com/x?y#z",
    }
    read = read_configuration(AGENT | given)
    assert {name: read[name] for name in given} == {
        "agent_type": AgentType.MCP_SERVER,
        "limit_scope": LimitScope.SIDECAR,
        "on_quota_unavailable": OnQuotaUnavailable.BLOCK,
        "tags": ("a", "b"),
        "max_daily_budget_usd": Decimal("0.1"),
        "mcp_capabilities": {"db": ("x",)},
        "max_actions_per_minute": None,
        "time_window_end": "24:00",
        "webhook_url": "https://example.com/x?y#z",
    }


ID = "is not 3 to 64 letters, digits, - and _ that start with a letter or digit"
SERVER_NAME = "is not letters, digits, -, _ and . that start with a letter or digit"

FAULTS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (read_configuration, {"agent_id": "a-b_C9" + "x" * 58}, []),
    (read_configuration, {"agent_id": "ab"}, ["agent_id: is shorter than 3 characters"]),
    (read_configuration, {"agent_id": "x" * 65}, ["agent_id: is longer than 64 characters"]),
    (read_configuration, {"agent_id": "-abc"}, [f"agent_id: `-abc` {ID}"]),
    (read_configuration, {"agent_id": "a b"}, [f"agent_id: `a b` {ID}"]),
    (read_configuration, {"agent_id": "abé"}, [f"agent_id: `abé` {ID}"]),
    (read_configuration, {"display_name": ""}, ["display_name: is empty"]),
    (read_configuration, {"display_name": "x" * 257}, ["display_name: is longer than 256 characters"]),
    (read_configuration, {"description": "x" * 4096}, []),
    (read_configuration, {"description": "x" * 4097}, ["description: is longer than 4096 characters"]),
    (
        read_configuration,
        {"agent_type": "robot"},
        ["agent_type: `robot` is not one of autonomous, supervised, advisory, mcp_server, custom"],
    ),
    (read_configuration, {"tags": [""]}, ["tags[0]: is empty"]),
    (read_configuration, {"tags": ["x" * 128]}, []),
    (read_configuration, {"tags": ["x" * 129]}, ["tags[0]: is longer than 128 characters"]),
    (read_configuration, {"tags": [str(n) for n in range(65)]}, ["tags: has more than 64 items"]),
    (read_configuration, {"tags": [str(n) for n in range(64)]}, []),
    (read_configuration, {"metadata": []}, ["metadata: `[]` is not an object"]),
    (read_configuration, {"metadata": {"a": "x" * 16_376}}, []),
    (read_configuration, {"metadata": {"a": "x" * 16_377}}, ["metadata: is larger than 16384 bytes"]),
    (read_configuration, {"allowed_action_types": [""]}, ["allowed_action_types[0]: is empty"]),
    (
        read_configuration,
        {"allowed_action_types": [str(n) for n in range(4097)]},
        ["allowed_action_types: has more than 4096 items"],
    ),
    (read_configuration, {"allowed_action_types": [str(n) for n in range(4096)]}, []),
    (read_configuration, {"allowed_resources": ["x", "x" * 2048]}, []),
    (read_configuration, {"allowed_resources": ["x" * 2049]}, ["allowed_resources[0]: is longer than 2048 characters"]),
    (read_configuration, {"blocked_resources": [""]}, ["blocked_resources[0]: is empty"]),
    (
        read_configuration,
        {"blocked_resources": [str(n) for n in range(4097)]},
        ["blocked_resources: has more than 4096 items"],
    ),
    (read_configuration, {"mcp_capabilities": {"a b": []}}, [f"mcp_capabilities.a b: `a b` {SERVER_NAME}"]),
    (read_configuration, {"mcp_capabilities": {"db": "x"}}, ["mcp_capabilities.db: `x` is not a list"]),
    (
        read_configuration,
        {"mcp_capabilities": {"db": [str(n) for n in range(1025)]}},
        ["mcp_capabilities.db: has more than 1024 items"],
    ),
    (
        read_configuration,
        {"mcp_capabilities": {str(n): [] for n in range(257)}},
        ["mcp_capabilities: has more than 256 entries"],
    ),
    (read_configuration, {"mcp_capabilities": {str(n): [] for n in range(256)}}, []),
    (read_configuration, {"default_risk_score": 101}, ["default_risk_score: `101` is not within 0 to 100"]),
    (read_configuration, {"default_risk_score": 100}, []),
    (read_configuration, {"default_risk_score": -1}, ["default_risk_score: `-1` is not within 0 to 100"]),
    (read_configuration, {"action_risk_scores": {"a": 101}}, ["action_risk_scores.a: `101` is not within 0 to 100"]),
    (read_configuration, {"action_risk_scores": {"a": 0, "": 1}}, ["action_risk_scores.: is empty"]),
    (
        read_configuration,
        {"action_risk_scores": {str(n): 1 for n in range(4097)}},
        ["action_risk_scores: has more than 4096 entries"],
    ),
    (read_configuration, {"auto_approve_below": 80}, []),
    (
        read_configuration,
        {"auto_approve_below": 81},
        ["auto_approve_below: 81 is above max_risk_threshold, which is 80"],
    ),
    (
        read_configuration,
        {"autonomous_auto_approve_below": 61, "max_risk_threshold": 20},
        [
            "auto_approve_below: 30 is above max_risk_threshold, which is 20",
            "autonomous_auto_approve_below: 61 is above autonomous_max_risk_threshold, which is 60",
        ],
    ),
    (read_configuration, {"autonomous_auto_approve_below": 60}, []),
    (read_configuration, {"requires_mfa_above": 0}, []),
    (read_configuration, {"max_actions_per_minute": 0}, []),
    (read_configuration, {"max_actions_per_hour": 1_000_000_000}, []),
    (
        read_configuration,
        {"max_actions_per_day": 1_000_000_001},
        ["max_actions_per_day: `1000000001` is not within 0 to 1000000000"],
    ),
    (read_configuration, {"max_actions_per_day": -1}, ["max_actions_per_day: `-1` is not within 0 to 1000000000"]),
    (read_configuration, {"max_daily_budget_usd": -1}, ["max_daily_budget_usd: `-1` is not within 0 to 1000000000"]),
    (
        read_configuration,
        {"budget_alert_threshold_percent": 0},
        ["budget_alert_threshold_percent: `0` is not within 1 to 100"],
    ),
    (read_configuration, {"budget_alert_threshold_percent": 1}, []),
    (
        read_configuration,
        {"budget_alert_threshold_percent": 101},
        ["budget_alert_threshold_percent: `101` is not within 1 to 100"],
    ),
    (read_configuration, {"time_window_start": "24:00"}, ["time_window_start: `24:00` is not a time of day as HH:MM"]),
    (read_configuration, {"time_window_start": "23:59"}, []),
    (read_configuration, {"time_window_start": "9:00"}, ["time_window_start: is shorter than 5 characters"]),
    (read_configuration, {"time_window_start": "09:60"}, ["time_window_start: `09:60` is not a time of day as HH:MM"]),
    (read_configuration, {"time_window_start": "09:000"}, ["time_window_start: is longer than 5 characters"]),
    (read_configuration, {"time_window_end": "24:01"}, ["time_window_end: `24:01` is not a time of day as HH:MM"]),
    (read_configuration, {"time_window_end": "1:00"}, ["time_window_end: is shorter than 5 characters"]),
    (read_configuration, {"time_window_end": "001:00"}, ["time_window_end: is longer than 5 characters"]),
    (read_configuration, {"time_window_end": "00:00"}, []),
    (
        read_configuration,
        {"time_window_end": "09:00"},
        ["time_window_end: equals time_window_start; a whole day is 00:00 to 24:00"],
    ),
    (
        read_configuration,
        {"time_window_timezone": "Mars"},
        ["time_window_timezone: `Mars` is not the IANA name of a time zone"],
    ),
    (read_configuration, {"time_window_days": []}, ["time_window_days: is empty"]),
    (read_configuration, {"time_window_days": [1, 2, 3, 4, 5, 6, 7]}, []),
    (
        read_configuration,
        {"time_window_days": [0, 8]},
        ["time_window_days[0]: `0` is not within 1 to 7", "time_window_days[1]: `8` is not within 1 to 7"],
    ),
    (read_configuration, {"time_window_days": [1, 2, 3, 4, 5, 6, 7, 1]}, ["time_window_days: has more than 7 items"]),
    (read_configuration, {"auto_suspend_on_error_rate": 0}, []),
    (read_configuration, {"auto_suspend_on_error_rate": 1}, []),
    (
        read_configuration,
        {"auto_suspend_on_error_rate": 1.1},
        ["auto_suspend_on_error_rate: `1.1` is not a number from 0 to 1"],
    ),
    (
        read_configuration,
        {"auto_suspend_on_error_rate": -0.1},
        ["auto_suspend_on_error_rate: `-0.1` is not a number from 0 to 1"],
    ),
    (
        read_configuration,
        {"auto_suspend_on_offline_minutes": 0},
        ["auto_suspend_on_offline_minutes: `0` is not within 1 to 525600"],
    ),
    (read_configuration, {"auto_suspend_on_offline_minutes": 1}, []),
    (read_configuration, {"auto_suspend_on_offline_minutes": 525_600}, []),
    (
        read_configuration,
        {"auto_suspend_on_offline_minutes": 525_601},
        ["auto_suspend_on_offline_minutes: `525601` is not within 1 to 525600"],
    ),
    (read_configuration, {"alert_recipients": ["a@b"]}, []),
    (read_configuration, {"alert_recipients": ["ab"]}, ["alert_recipients[0]: is shorter than 3 characters"]),
    (read_configuration, {"alert_recipients": ["a b@c"]}, ["alert_recipients[0]: `a b@c` is not an e-mail address"]),
    (read_configuration, {"alert_recipients": ["a@" + "b" * 252]}, []),
    (
        read_configuration,
        {"alert_recipients": ["a@" + "b" * 253]},
        ["alert_recipients[0]: is longer than 254 characters"],
    ),
    (
        read_configuration,
        {"alert_recipients": [f"a@{n}" for n in range(65)]},
        ["alert_recipients: has more than 64 items"],
    ),
    (read_configuration, {"alert_recipients": [f"a@{n}" for n in range(64)]}, []),
    (
        read_configuration,
        {"webhook_url": "http://example.com"},
        ["webhook_url: `http://example.com` is not an https URL"],
    ),
    (
        read_configuration,
        {"webhook_url": "https://u@example.com"},
        ["webhook_url: `https://u@example.com` is not an https URL"],
    ),
    (read_configuration, {"webhook_url": "https://"}, ["webhook_url: is shorter than 9 characters"]),
    (read_configuration, {"webhook_url": "https://a"}, []),
    (read_configuration, {"webhook_url": "https://" + "a" * 2040}, []),
    (read_configuration, {"webhook_url": "https://" + "a" * 2041}, ["webhook_url: is longer than 2048 characters"]),
    (read_configuration, {"status": "active"}, ["status: unknown field"]),
    (read_policy_body, {"policy_name": ""}, ["policy_name: is empty"]),
    (read_policy_body, {"policy_description": "x" * 4097}, ["policy_description: is longer than 4096 characters"]),
    (read_policy_body, {"priority": 0}, []),
    (read_policy_body, {"priority": 1_000_000}, []),
    (read_policy_body, {"priority": -1}, ["priority: `-1` is not within 0 to 1000000"]),
    (read_policy_body, {"priority": 1_000_001}, ["priority: `1000001` is not within 0 to 1000000"]),
    (read_policy_body, {"conditions": []}, ["conditions: `[]` is not an object"]),
    (read_policy_body, {"conditions": {"x": 1}}, ["conditions.x: unknown operator `x`"]),
    (
        read_policy_body,
        {"conditions": {"resource_in": ["x" * 2000 + str(n) for n in range(33)]}},
        ["conditions: is larger than 65536 bytes"],
    ),
    (
        read_policy_body,
        {"policy_action": "deny"},
        ["policy_action: `deny` is not one of allow, require_approval, block, escalate"],
    ),
    (read_policy_body, {"action_params": {"a": "x" * 16_376}}, []),
    (read_policy_body, {"action_params": {"a": "x" * 16_377}}, ["action_params: is larger than 16384 bytes"]),
    (read_policy_body, {"action_params": 5}, ["action_params: `5` is not an object"]),
    (read_policy_body, {"action_params": {"approvers": ["a"], "team": "t", "timeout_seconds": 1, "own": None}}, []),
    (read_policy_body, {"action_params": {"approvers": "a"}}, ["action_params.approvers: `a` is not a list"]),
    (read_policy_body, {"action_params": {"approvers": [str(n) for n in range(64)]}}, []),
    (
        read_policy_body,
        {"action_params": {"approvers": [str(n) for n in range(65)]}},
        ["action_params.approvers: has more than 64 items"],
    ),
    (read_policy_body, {"action_params": {"team": ""}}, ["action_params.team: is empty"]),
    (
        read_policy_body,
        {"action_params": {"timeout_seconds": 0}},
        ["action_params.timeout_seconds: `0` is not within 1 to 2592000"],
    ),
    (read_policy_body, {"action_params": {"timeout_seconds": 2_592_000}}, []),
    (
        read_policy_body,
        {"action_params": {"timeout_seconds": 2_592_001}},
        ["action_params.timeout_seconds: `2592001` is not within 1 to 2592000"],
    ),
    (read_policy_body, {"action_params": {"next_team": "t", "min_approvers": 64}}, []),
    (read_policy_body, {"action_params": {"next_team": 5}}, ["action_params.next_team: `5` is not a string"]),
    (
        read_policy_body,
        {"action_params": {"min_approvers": 0}},
        ["action_params.min_approvers: `0` is not within 1 to 64"],
    ),
    (read_policy_body, {"mode": "off"}, ["mode: `off` is not one of enforce, shadow"]),
    (read_policy_body, {"on_missing": "hold"}, ["on_missing: `hold` is not one of no_match, match"]),
    (read_policy_body, {"applies_to": {}}, ["applies_to: unknown field"]),
    (read_organisation_policy_body, {"applies_to": {"tags": ["a"], "agent_types": ["custom"]}}, []),
    (
        read_organisation_policy_body,
        {"applies_to": {"names": 1, "tags": 5}},
        ["applies_to.names: unknown field", "applies_to.tags: `5` is not a list"],
    ),
    (read_organisation_policy_body, {"applies_to": []}, ["applies_to: `[]` is not an object"]),
    (
        read_organisation_policy_body,
        {"applies_to": {"agent_types": ["x"]}},
        ["applies_to.agent_types[0]: `x` is not one of autonomous, supervised, advisory, mcp_server, custom"],
    ),
    (read_organisation_policy_body, {"applies_to": {"agent_types": [t.value for t in AgentType]}}, []),
    (
        read_organisation_policy_body,
        {"applies_to": {"agent_types": ["custom"] * 6}},
        ["applies_to.agent_types: has more than 5 items"],
    ),
    (
        read_organisation_policy_body,
        {"conditions": {"risk_above": 100}},
        ["conditions.risk_above: `100` is not within 0 to 99"],
    ),
    (read_server_body, {"server_name": "x" * 128}, []),
    (read_server_body, {"server_name": "x" * 129}, ["server_name: is longer than 128 characters"]),
    (read_server_body, {"server_name": ""}, ["server_name: is empty"]),
    (read_server_body, {"server_name": "a.b_c-D"}, []),
    (read_server_body, {"server_name": ".a"}, [f"server_name: `.a` {SERVER_NAME}"]),
    (read_server_body, {"display_name": "x" * 256}, []),
    (read_server_body, {"display_name": "x" * 257}, ["display_name: is longer than 256 characters"]),
    (read_server_body, {"server_url": "x" * 2048}, []),
    (read_server_body, {"server_url": "x" * 2049}, ["server_url: is longer than 2048 characters"]),
    (
        read_server_body,
        {"transport_type": "tcp"},
        ["transport_type: `tcp` is not one of stdio, http, sse, streamable_http"],
    ),
    (read_server_body, {"governance_enabled": 0}, ["governance_enabled: `0` is not true or false"]),
    (read_server_body, {"tool_risk_overrides": {"a": 101}}, ["tool_risk_overrides.a: `101` is not within 0 to 100"]),
    (read_server_body, {"tool_risk_overrides": {str(n): 1 for n in range(4096)}}, []),
    (
        read_server_body,
        {"tool_risk_overrides": {str(n): 1 for n in range(4097)}},
        ["tool_risk_overrides: has more than 4096 entries"],
    ),
    (
        read_server_body,
        {"blocked_tools": ["a", "b", "c"], "auto_approve_tools": ["c", "b"]},
        ["blocked_tools: `b` is also in auto_approve_tools", "blocked_tools: `c` is also in auto_approve_tools"],
    ),
]
MINIMAL = {
    read_configuration: AGENT,
    read_policy_body: POLICY,
    read_organisation_policy_body: POLICY,
    read_server_body: SERVER,
}


def faults(read: Any, document: Any) -> list[str]:
    try:
        read(document)
    except InvalidRecordError as error:
        return list(map(str, error.problems))
    return []


@pytest.mark.parametrize(
    ("read", "given", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", repr(value)[:60])
)
def test_a_fault_is_reported_and_a_boundary_value_is_accepted(
    read: Any, given: dict[str, Any], expected: list[str]
) -> None:
    """Exactly these problems are reported for the one given field."""
    assert faults(read, MINIMAL[read] | given) == expected


def test_all_faults_of_a_document_come_at_once() -> None:
    """Also the faults of its policies, each with its index in the list."""
    document = {
        "agent_id": "ab",
        "status": "gone",
        "version": "1",
        "auto_approve_below": 90,
        "policies": [SYNCED, POLICY | {"conditions": {"hour_after": 24}, "action_params": {"team": ""}}, 5],
    }
    assert faults(read_agent, document) == [
        "agent_id: is shorter than 3 characters",
        "display_name: is required",
        "status: `gone` is not one of draft, active, suspended, retired",
        "version: is shorter than 5 characters",
        "policies[1].policy_id: is required",
        "policies[1].created_at: is required",
        "policies[1].conditions.hour_after: `24` is not within 0 to 23",
        "policies[1].action_params.team: is empty",
        "policies[2]: `5` is not an object",
        "policies[2].policy_name: is required",
        "policies[2].policy_action: is required",
        "policies[2].policy_id: is required",
        "policies[2].created_at: is required",
        "auto_approve_below: 90 is above max_risk_threshold, which is 80",
    ]


def test_a_synced_document_needs_every_field_of_the_store() -> None:
    """The store sets the status, version, id and creation time, and policies are a list."""
    assert faults(read_agent, AGENT) == ["status: is required", "version: is required"]
    given = AGENT | {"status": "active", "version": "1.0.0"}
    assert faults(read_agent, given | {"policies": {}}) == ["policies: `{}` is not a list"]
    assert faults(read_agent, given | {"version": "1.0"}) == ["version: is shorter than 5 characters"]
    assert faults(read_agent, given | {"version": "1.0.x"}) == ["version: `1.0.x` is not a version as 1.0.0"]
    assert faults(read_agent, given | {"version": "1.0." + "0" * 28}) == []
    assert faults(read_agent, given | {"version": "1.0." + "0" * 29}) == ["version: is longer than 32 characters"]
    assert faults(read_organisation_policy, POLICY) == ["policy_id: is required", "created_at: is required"]
    assert faults(read_organisation_policy, SYNCED | {"policy_id": "x" * 65, "created_at": "x" * 41}) == [
        "policy_id: is longer than 64 characters",
        "created_at: is longer than 40 characters",
    ]
    assert faults(read_organisation_policy, SYNCED | {"policy_id": "", "created_at": ""}) == [
        "policy_id: is empty",
        "created_at: is empty",
    ]
    assert faults(read_organisation_policy, SYNCED | {"policy_id": "x" * 64, "created_at": "x" * 40}) == []
    assert faults(read_organisation_policy, SYNCED | {"policy_id": "x", "created_at": "x"}) == []


def test_required_fields_must_be_given() -> None:
    """The id, the display name, and a policy's action."""
    assert faults(read_configuration, {}) == ["agent_id: is required", "display_name: is required"]
    assert faults(read_policy_body, {}) == ["policy_name: is required", "policy_action: is required"]
    assert faults(read_server_body, {}) == ["server_name: is required"]


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_a_document_that_is_no_object_is_a_fault(document: Any) -> None:
    """For every type of record."""
    for read in (read_configuration, read_agent, read_policy_body, read_organisation_policy, read_server):
        assert faults(read, document)[0].endswith("is not an object")


def test_one_fault_is_reported_once() -> None:
    """Even where two checks find it."""
    found = faults(read_configuration, AGENT | {"time_window_start": "x" * 5, "time_window_end": "x" * 5})
    assert len(found) == len(set(found)) == 3


def test_an_older_policys_own_keys_compile() -> None:
    """`next_team` and `min_approvers` were its own when it was written: they have no effect, and are no fault."""
    own = {"next_team": {"a": 1}, "min_approvers": "two", "approvers": ["a"]}
    synced = POLICY | {"policy_id": "p", "created_at": "2026-01-01T00:00:00.000000Z", "action_params": own}
    assert read_policy(synced).action_params == own
    assert demand_of("escalate", own, mfa_required=True) == Demand("escalate", ("a",), None, None, 1, True)


def test_who_must_decide_is_compared_by_what_it_means() -> None:
    """Not by the order of the approvers, nor by how a number is written, nor by a policy's own keys."""
    one = demand_of("escalate", {"approvers": ["a", "b"], "min_approvers": 2}, mfa_required=False)
    same = demand_of("escalate", {"approvers": ["b", "a"], "min_approvers": 2.0, "own": 1}, mfa_required=False)
    assert one.canonical() == same.canonical()
    assert one.canonical() != one._replace(mfa_required=True).canonical()
