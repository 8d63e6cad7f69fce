"""The records that a decision uses (agent, policy, server), and their enums."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple


class Outcome(IntEnum):
    """What the runtime must do; the values are those of `pdp.v1.Outcome`."""

    ALLOW = 1
    REQUIRE_APPROVAL = 2
    BLOCK = 3
    ESCALATE = 4


class Reason(IntEnum):
    """The stage that decided, and why; the values are those of `pdp.v1.Reason`."""

    AGENT_NOT_REGISTERED = 1
    AGENT_NOT_ACTIVE = 2
    ACTION_NOT_ALLOWED = 3
    RESOURCE_BLOCKED = 4
    RESOURCE_NOT_ALLOWED = 5
    DATA_CLASSIFICATION_BLOCKED = 6
    MCP_SERVER_NOT_REGISTERED = 7
    MCP_TOOL_BLOCKED = 8
    OUTSIDE_TIME_WINDOW = 9
    RATE_LIMIT_EXCEEDED = 10
    BUDGET_EXCEEDED = 11
    POLICY_MATCHED = 12
    MCP_TOOL_AUTO_APPROVED = 13
    RISK_ABOVE_MAXIMUM = 14
    RISK_BELOW_AUTO_APPROVE = 15
    RISK_NEEDS_APPROVAL = 16
    MFA_REQUIRED = 17
    APPROVED = 18
    APPROVAL_MISMATCH = 19
    INTERNAL_ERROR = 20
    REGISTRY_STALE = 21


class Source(IntEnum):
    """Whether the store confirms the registry data at this time; the values are those of `pdp.v1.Source`."""

    LIVE = 1
    CACHED = 2


class RecordKind(IntEnum):
    """The kind of a registry record; the values are those of `registry_store.v1.RecordKind`."""

    AGENT = 1
    ORGANISATION_POLICY = 2
    MCP_SERVER = 3


class AgentType(Enum):
    AUTONOMOUS = "autonomous"
    SUPERVISED = "supervised"
    ADVISORY = "advisory"
    MCP_SERVER = "mcp_server"
    CUSTOM = "custom"


class Status(Enum):
    DRAFT = "draft"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"


class LimitScope(Enum):
    AGENT = "agent"
    SIDECAR = "sidecar"


class OnQuotaUnavailable(Enum):
    FAIR_SHARE = "fair_share"
    BLOCK = "block"


class Mode(Enum):
    ENFORCE = "enforce"
    SHADOW = "shadow"


class OnMissing(Enum):
    NO_MATCH = "no_match"
    MATCH = "match"


class StaleMode(Enum):
    """What a sidecar does with decisions while its registry data is older than allowed."""

    SERVE = "serve"
    ESCALATE = "escalate"
    BLOCK = "block"


class Transport(Enum):
    STDIO = "stdio"
    HTTP = "http"
    SSE = "sse"
    STREAMABLE_HTTP = "streamable_http"


class Result(IntEnum):
    """How an action ended; the values are those of `pdp.v1.ActionResult`."""

    SUCCEEDED = 1
    FAILED = 2


class Trigger(Enum):
    """What suspends an agent by itself."""

    ERROR_RATE = "error_rate"
    OFFLINE = "offline"
    BUDGET_EXCEEDED = "budget_exceeded"
    RATE_EXCEEDED = "rate_exceeded"


class Now(NamedTuple):
    """One reading of the clocks, in seconds: `wall` since the Unix epoch, `boot` on a clock that never jumps."""

    wall: float
    boot: float


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy of an agent, or of the organisation: then `applies_to` selects the agents that it applies to."""

    policy_id: str
    policy_name: str
    policy_description: str
    is_active: bool
    priority: int
    conditions: Mapping[str, Any]
    policy_action: Outcome
    action_params: Mapping[str, Any]
    mode: Mode
    on_missing: OnMissing
    created_at: str
    applies_to: "Selector | None" = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects agents with one of `tags` and one of `agent_types`; an empty tuple selects any."""

    tags: tuple[str, ...]
    agent_types: tuple[AgentType, ...]


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent as registered, with its own policies; the fields are those of the registry."""

    agent_id: str
    display_name: str
    description: str
    agent_type: AgentType
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    allowed_action_types: tuple[str, ...]
    allowed_resources: tuple[str, ...]
    blocked_resources: tuple[str, ...]
    mcp_capabilities: Mapping[str, tuple[str, ...]]
    default_risk_score: int
    action_risk_scores: Mapping[str, int]
    auto_approve_below: int
    max_risk_threshold: int
    requires_mfa_above: int
    autonomous_auto_approve_below: int
    autonomous_max_risk_threshold: int
    max_actions_per_minute: int | None
    max_actions_per_hour: int | None
    max_actions_per_day: int | None
    limit_scope: LimitScope
    on_quota_unavailable: OnQuotaUnavailable
    max_daily_budget_usd: Decimal | None
    budget_alert_threshold_percent: int
    time_window_enabled: bool
    time_window_start: str
    time_window_end: str
    time_window_timezone: str
    time_window_days: tuple[int, ...]
    allowed_data_classifications: tuple[str, ...]
    blocked_data_classifications: tuple[str, ...]
    auto_suspend_enabled: bool
    auto_suspend_on_error_rate: float | None
    auto_suspend_on_offline_minutes: int | None
    auto_suspend_on_budget_exceeded: bool
    auto_suspend_on_rate_exceeded: bool
    alert_on_high_risk: bool
    alert_recipients: tuple[str, ...]
    webhook_url: str | None
    escalation_team: str
    status: Status
    version: str
    activations: int
    policies: tuple[PolicyRecord, ...]


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """An MCP server as registered."""

    server_name: str
    display_name: str
    description: str
    server_url: str
    transport_type: Transport
    governance_enabled: bool
    auto_approve_tools: tuple[str, ...]
    blocked_tools: tuple[str, ...]
    tool_risk_overrides: Mapping[str, int]
