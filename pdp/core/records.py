"""JSON documents → records. The one table of every field that store and sidecar check against.

The store accepts a body, and a sidecar a synced document, only through these functions: what one accepts the other
compiles. Each raises `InvalidRecordError` with every problem that it found. Each policy is
checked on its own, so no limit depends on its neighbours: an agent compiles if it compiles without policies and each of
its policies compiles.
"""

from collections.abc import Mapping
from typing import Any

from pdp.core import conditions
from pdp.core.action import AGENT_ID
from pdp.core.errors import Problem, Problems
from pdp.core.fields import Field, Kind, join, quote
from pdp.core.kinds import Choice, Dollars, Flag, Json, ListOf, MapOf, Number, ObjectOf, OrNull, Text, Whole, Zone
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

NAME = Text(256, 1)
PROSE = Text(4096)
TAGS = ListOf(Text(128, 1), 64)
NAMES = ListOf(NAME, 4096)
RESOURCES = ListOf(Text(2048, 1), 4096)
SCORE = Whole(0, 100)
LIMIT = OrNull(Whole(0, 1_000_000_000))
CLOCK = Text(5, 5, r"([01][0-9]|2[0-3]):[0-5][0-9]", "a time of day as HH:MM")
CLOCK_END = Text(5, 5, r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00", "a time of day as HH:MM")
EMAIL = Text(254, 3, r"[^@\s,;<>]+@[^@\s,;<>]+", "an e-mail address", format="email")
HTTPS = Text(2048, 9, r"https://[^\s/?#@\\]+(?:[/?#]\S*)?", "an https URL", format="uri")
ACTIVATIONS = Whole(0, 2**31)
VERSION = Text(32, 5, r"[0-9]+\.[0-9]+\.[0-9]+", "a version as 1.0.0")
SERVER_NAME = Text(
    128, 1, r"[a-zA-Z0-9][a-zA-Z0-9\-_.]*", "letters, digits, -, _ and . that start with a letter or digit"
)
SERVER_URL = Text(2048)

MAX_POLICIES = 10_000
"""The limit for one agent."""
MAX_APPROVERS = 64


def _check_agent(values: Mapping[str, Any], path: str, problems: Problems) -> None:
    for below, above in (
        ("auto_approve_below", "max_risk_threshold"),
        ("autonomous_auto_approve_below", "autonomous_max_risk_threshold"),
    ):
        if values[below] > values[above]:
            problems.append(Problem(join(path, below), f"{values[below]} is above {above}, which is {values[above]}"))
    if values["time_window_start"] == values["time_window_end"]:
        problems.append(
            Problem(join(path, "time_window_end"), "equals time_window_start; a whole day is 00:00 to 24:00")
        )


def _check_policy(values: Mapping[str, Any], path: str, problems: Problems) -> None:
    conditions.check(values["conditions"], join(path, "conditions"), problems)
    check_params(values["action_params"], join(path, "action_params"), problems)


def _check_policy_body(values: Mapping[str, Any], path: str, problems: Problems) -> None:
    _check_policy(values, path, problems)
    for name in LATER_PARAMS & values["action_params"].keys():
        PARAMS[name].kind.read(values["action_params"][name], join(join(path, "action_params"), name), problems)


def check_params(params: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Append every fault of the `action_params` that makes a synced policy invalid."""
    for name, field in PARAMS.items():
        if name in params and name not in LATER_PARAMS:
            field.kind.read(params[name], join(path, name), problems)


def read_param(params: Mapping[str, Any], name: str) -> Any:
    """One of `PARAMS`; its default if it is missing or invalid, as an older policy's own key of that name may be."""
    problems = Problems()
    value = PARAMS[name].kind.read(params[name], name, problems) if name in params else None
    return PARAMS[name].default if value is None or problems else value


def _check_server(values: Mapping[str, Any], path: str, problems: Problems) -> None:
    approved = set(values["auto_approve_tools"])
    for tool in values["blocked_tools"]:
        if tool in approved and not problems.full:
            problems.append(Problem(join(path, "blocked_tools"), f"{quote(tool)} is also in auto_approve_tools"))


CONFIGURATION: dict[str, Field] = {
    "agent_id": Field(AGENT_ID, required=True, about="Unique for ever; a retired id is not reused"),
    "display_name": Field(NAME, required=True, about="Name for people"),
    "description": Field(PROSE, "", about="Purpose"),
    "agent_type": Field(Choice(AgentType), AgentType.SUPERVISED),
    "tags": Field(TAGS, (), about="Categorisation"),
    "metadata": Field(Json(16_384, only_object=True), {}, about="Own key-value pairs: owner, cost_center, …"),
    "allowed_action_types": Field(NAMES, (), about="If not empty, an action type outside it is blocked"),
    "allowed_resources": Field(RESOURCES, (), about="If not empty, a resource outside it is blocked"),
    "blocked_resources": Field(RESOURCES, (), about="Always blocked; wins over allowed_resources"),
    "mcp_capabilities": Field(
        MapOf(SERVER_NAME, ListOf(NAME, 1024), 256),
        {},
        about='If it names servers: the servers and tools that this agent may use; ["*"] for all tools of a server',
    ),
    "default_risk_score": Field(SCORE, 50, about="Risk of an action without another score"),
    "action_risk_scores": Field(MapOf(NAME, SCORE, 4096), {}, about="The registry's own score for an action type"),
    "auto_approve_below": Field(SCORE, 30, about="Risk below it: allow"),
    "max_risk_threshold": Field(SCORE, 80, about="Risk above it: escalate"),
    "requires_mfa_above": Field(SCORE, 70, about="Risk above it needs MFA"),
    "autonomous_auto_approve_below": Field(SCORE, 40, about="Replaces auto_approve_below for an autonomous agent"),
    "autonomous_max_risk_threshold": Field(SCORE, 60, about="Replaces max_risk_threshold for an autonomous agent"),
    "max_actions_per_minute": Field(LIMIT, 100, about="Actions in any 60 s; null: no limit"),
    "max_actions_per_hour": Field(LIMIT, 1000, about="Actions in any 3,600 s; null: no limit"),
    "max_actions_per_day": Field(LIMIT, 10000, about="Actions in any 86,400 s; null: no limit"),
    "limit_scope": Field(Choice(LimitScope), LimitScope.AGENT, about="One limit across all pods, or one per sidecar"),
    "on_quota_unavailable": Field(Choice(OnQuotaUnavailable), OnQuotaUnavailable.FAIR_SHARE),
    "max_daily_budget_usd": Field(OrNull(Dollars()), None, about="Spend per calendar day; null: no limit"),
    "budget_alert_threshold_percent": Field(Whole(1, 100), 80, about="Alert when this share is spent"),
    "time_window_enabled": Field(Flag(), False, about="Restrict actions to the window"),
    "time_window_start": Field(CLOCK, "09:00", about="Local time, included; after the end: spans midnight"),
    "time_window_end": Field(CLOCK_END, "17:00", about="Local time, excluded"),
    "time_window_timezone": Field(Zone(), "UTC", about="Also the zone of the budget's day and of hour conditions"),
    "time_window_days": Field(ListOf(Whole(1, 7), 7, 1), (1, 2, 3, 4, 5), about="Monday 1 to Sunday 7"),
    "allowed_data_classifications": Field(NAMES, (), about="If not empty, others are blocked"),
    "blocked_data_classifications": Field(NAMES, (), about="Always blocked"),
    "auto_suspend_enabled": Field(Flag(), False, about="The four triggers below act only when it is true"),
    "auto_suspend_on_error_rate": Field(OrNull(Number(0, 1)), None),
    "auto_suspend_on_offline_minutes": Field(OrNull(Whole(1, 525_600)), None),
    "auto_suspend_on_budget_exceeded": Field(Flag(), False),
    "auto_suspend_on_rate_exceeded": Field(Flag(), False),
    "alert_on_high_risk": Field(Flag(), False, about="Alert on every escalate"),
    "alert_recipients": Field(ListOf(EMAIL, 64), (), about="Alert by mail"),
    "webhook_url": Field(OrNull(HTTPS), None, about="Alert by signed webhook"),
    "escalation_team": Field(
        Text(256), "", about="Group of keys that decides on its escalations; empty: the store's --escalation-team"
    ),
}
"""The fields of an agent that a caller of the registry may write."""

PARAMS: dict[str, Field] = {
    "approvers": Field(ListOf(NAME, MAX_APPROVERS), (), about="Keys or groups, any of which may decide"),
    "timeout_seconds": Field(Whole(1, 2_592_000), about="How long people have to decide; default 3600"),
    "team": Field(NAME, about="Group of keys that may decide; of an escalation nobody else"),
    "next_team": Field(NAME, about="Group that it goes to when nobody decided in time"),
    "min_approvers": Field(Whole(1, MAX_APPROVERS), 1, about="How many different people must approve"),
}
"""The `action_params` that have a meaning; other keys are handed through to the runtime."""

LATER_PARAMS = frozenset({"next_team", "min_approvers"})
"""Checked only when a policy is written: an older policy may use them as keys of its own, and still compiles."""

POLICY_BODY: dict[str, Field] = {
    "policy_name": Field(NAME, required=True, about="Unique within the agent"),
    "policy_description": Field(PROSE, ""),
    "is_active": Field(Flag(), True),
    "priority": Field(Whole(0, 1_000_000), 100, about="Lower is evaluated first, then older first"),
    "conditions": Field(Json(65_536, only_object=True), {}, about="All must hold; an empty object always holds"),
    "policy_action": Field(Choice(Outcome), Outcome.BLOCK, required=True),
    "action_params": Field(
        Json(16_384, only_object=True),
        {},
        about="approvers, timeout_seconds, team, next_team, min_approvers, or keys of your own",
    ),
    "mode": Field(Choice(Mode), Mode.ENFORCE, about="shadow: evaluated and reported, never decides"),
    "on_missing": Field(
        Choice(OnMissing),
        OnMissing.NO_MATCH,
        about="Whether a condition holds if the action lacks the value that it checks",
    ),
}
"""The fields of a policy that a caller of the registry may write."""

SELECTOR: dict[str, Field] = {
    "tags": Field(TAGS, (), about="Agents with one of these tags; empty: any"),
    "agent_types": Field(ListOf(Choice(AgentType), 5), (), about="Agents of one of these types; empty: any"),
}

APPLIES_TO = Field(ObjectOf(SELECTOR), {"tags": (), "agent_types": ()}, about="Which agents it binds; empty: all")

SERVER_BODY: dict[str, Field] = {
    "server_name": Field(SERVER_NAME, required=True, about="Unique"),
    "display_name": Field(Text(256), ""),
    "description": Field(PROSE, ""),
    "server_url": Field(SERVER_URL, ""),
    "transport_type": Field(Choice(Transport), Transport.HTTP),
    "governance_enabled": Field(Flag(), True, about="false switches off the three rules below"),
    "auto_approve_tools": Field(NAMES, ()),
    "blocked_tools": Field(NAMES, ()),
    "tool_risk_overrides": Field(MapOf(NAME, SCORE, 4096), {}),
}
"""The fields of an MCP server that a caller of the registry may write."""

POLICY: dict[str, Field] = POLICY_BODY | {
    "policy_id": Field(Text(64, 1), required=True),
    "created_at": Field(Text(40, 1), required=True, about="RFC 3339, UTC, of one fixed width"),
}
POLICY_KIND = ObjectOf(POLICY, _check_policy)
ORGANISATION_POLICY: dict[str, Field] = POLICY | {"applies_to": APPLIES_TO}
AGENT: dict[str, Field] = CONFIGURATION | {
    "status": Field(Choice(Status), Status.DRAFT, required=True),
    "version": Field(VERSION, "0.0.0", required=True),
    "activations": Field(ACTIVATIONS, 0, about="How often it was activated"),
    "policies": Field(ListOf(POLICY_KIND, MAX_POLICIES, distinct=False), ()),
}

AGENT_BODY_KIND = ObjectOf(CONFIGURATION, _check_agent)
AGENT_KIND = ObjectOf(AGENT, _check_agent)
POLICY_BODY_KIND = ObjectOf(POLICY_BODY, _check_policy_body)
ORGANISATION_POLICY_BODY_KIND = ObjectOf(POLICY_BODY | {"applies_to": APPLIES_TO}, _check_policy_body)
ORGANISATION_POLICY_KIND = ObjectOf(ORGANISATION_POLICY, _check_policy)
SERVER_KIND = ObjectOf(SERVER_BODY, _check_server)


def read_configuration(document: Any) -> dict[str, Any]:
    """The body of a request to register an agent, with defaults, as the values of an `AgentRecord`."""
    return _read(document, AGENT_BODY_KIND)


def read_agent(document: Any) -> AgentRecord:
    """A synced agent with its status, version and policies."""
    values = _read(document, AGENT_KIND)
    values["policies"] = tuple(PolicyRecord(**policy) for policy in values["policies"])
    return AgentRecord(**values)


def read_policy_body(document: Any) -> dict[str, Any]:
    """The body of a request to add a policy to an agent, with defaults."""
    return _read(document, POLICY_BODY_KIND)


def read_policy(document: Any) -> PolicyRecord:
    """One policy of a synced agent, checked on its own."""
    return PolicyRecord(**_read(document, POLICY_KIND))


def read_organisation_policy_body(document: Any) -> dict[str, Any]:
    """The body of a request to add an organisation policy: that of a policy, and `applies_to`."""
    return _read(document, ORGANISATION_POLICY_BODY_KIND)


def read_organisation_policy(document: Any) -> PolicyRecord:
    """A synced organisation policy."""
    values = _read(document, ORGANISATION_POLICY_KIND)
    values["applies_to"] = Selector(**values["applies_to"])
    return PolicyRecord(**values)


def read_server_body(document: Any) -> dict[str, Any]:
    """The body of a request to add an MCP server, with defaults."""
    return _read(document, SERVER_KIND)


def read_server(document: Any) -> ServerRecord:
    """A synced MCP server."""
    return ServerRecord(**_read(document, SERVER_KIND))


def _read(document: Any, kind: Kind) -> dict[str, Any]:
    problems = Problems()
    values: dict[str, Any] = kind.read(document, "", problems)
    problems.raise_if_any()
    return values
