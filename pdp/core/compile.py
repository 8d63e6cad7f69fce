"""Records → what `decide` reads: sets instead of lists, closures instead of conditions, an index of policies.

Every record has passed `pdp.core.records`, so nothing here can fail.
"""

from collections.abc import Collection, Iterable, Mapping
from copy import copy
from heapq import merge
from operator import attrgetter
from typing import Any, NamedTuple

from pdp.core.conditions import Clause, Test, clauses
from pdp.core.model import (
    AgentRecord,
    AgentType,
    Mode,
    OnMissing,
    Outcome,
    PolicyRecord,
    Selector,
    ServerRecord,
    Status,
)
from pdp.core.usage import Limits

MAX_MERGED = 1024

_order = attrgetter("order")


class CompiledPolicy:
    """One active policy. It holds for an action of one of `action_types` (None: any) that passes every test."""

    __slots__ = (
        "action_params",
        "action_types",
        "order",
        "outcome",
        "policy_id",
        "policy_name",
        "priority",
        "shadow",
        "tests",
    )

    def __init__(self, record: PolicyRecord) -> None:
        self.policy_id = record.policy_id
        self.policy_name = record.policy_name
        self.priority = record.priority
        self.order = (record.priority, record.created_at, record.policy_id)
        self.outcome: Outcome = record.policy_action
        self.action_params: Mapping[str, Any] = record.action_params
        self.shadow = record.mode is Mode.SHADOW
        found = clauses(record.conditions)
        self.action_types = _exact_action_types(found)
        missing = record.on_missing is OnMissing.MATCH
        self.tests: tuple[Test, ...] = tuple(
            clause.operator.compiled(clause.operand, missing)
            for clause in found
            if self.action_types is None or not _names_action_types(clause)
        )


class PolicySet:
    """Policies in the order of evaluation, indexed by action type; agents with the same policies share one."""

    __slots__ = ("_by_action_type", "_for_any", "_merged", "shadows")

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        ordered = sorted(policies, key=_order)
        enforcing = [policy for policy in ordered if not policy.shadow]
        self.shadows = tuple(policy for policy in ordered if policy.shadow)
        self._for_any = tuple(policy for policy in enforcing if policy.action_types is None)
        by_action_type: dict[str, list[CompiledPolicy]] = {}
        for policy in enforcing:
            for action_type in policy.action_types or ():
                by_action_type.setdefault(action_type, []).append(policy)
        self._by_action_type = by_action_type
        self._merged: dict[str, tuple[CompiledPolicy, ...]] = {}

    def enforcing(self, action_type: str) -> tuple[CompiledPolicy, ...]:
        """The enforcing policies that an action of this type may meet, in the order of evaluation."""
        merged = self._merged.get(action_type)
        if merged is not None:
            return merged
        if action_type not in self._by_action_type:
            return self._for_any
        return self._merge(action_type)

    def _merge(self, action_type: str) -> tuple[CompiledPolicy, ...]:
        # Merged on first use and not all at once: thousands of types times thousands of general policies would
        # not fit. Only types that a policy names get here, so callers cannot fill the cache.
        if len(self._merged) >= MAX_MERGED:
            self._merged.clear()
        both = merge(self._by_action_type[action_type], self._for_any, key=_order)
        merged = self._merged[action_type] = tuple(both)
        return merged


NO_POLICIES = PolicySet(())


class CompiledServer:
    """The three tool rules of an MCP server; all empty while its governance is off."""

    __slots__ = ("auto_approve_tools", "blocked_tools", "tool_risk_overrides")

    def __init__(self, record: ServerRecord) -> None:
        governed = record.governance_enabled
        self.auto_approve_tools = frozenset(record.auto_approve_tools if governed else ())
        self.blocked_tools = frozenset(record.blocked_tools if governed else ())
        self.tool_risk_overrides = dict(record.tool_risk_overrides if governed else {})


class Triggers(NamedTuple):
    """The triggers of a suspension that a sidecar watches; `error_rate` is a share of failures, None: not watched."""

    error_rate: float | None
    budget_exceeded: bool
    rate_exceeded: bool


class CompiledAgent:
    """One agent as `decide` reads it. None means no restriction."""

    __slots__ = (
        "action_risk_scores",
        "activations",
        "active",
        "agent_id",
        "agent_type",
        "allowed_action_types",
        "allowed_data_classifications",
        "allowed_resources",
        "auto_approve_below",
        "blocked_data_classifications",
        "blocked_resources",
        "budget_micros",
        "capabilities",
        "default_risk_score",
        "limits",
        "max_risk_threshold",
        "own_policies",
        "policies",
        "requires_mfa_above",
        "status",
        "tags",
        "triggers",
        "version",
        "window",
        "zone",
    )

    def __init__(self, record: AgentRecord, policies: PolicySet = NO_POLICIES) -> None:
        autonomous = record.agent_type is AgentType.AUTONOMOUS
        self.agent_id = record.agent_id
        self.agent_type = record.agent_type
        self.tags = frozenset(record.tags)
        self.own_policies = tuple(CompiledPolicy(policy) for policy in record.policies if policy.is_active)
        self.status = record.status
        self.active = record.status is Status.ACTIVE
        self.version = record.version
        self.activations = record.activations
        self.triggers = _triggers(record)
        self.policies = policies
        self.allowed_action_types = _restriction(record.allowed_action_types)
        self.allowed_resources = _restriction(record.allowed_resources)
        self.blocked_resources = frozenset(record.blocked_resources)
        self.allowed_data_classifications = _restriction(record.allowed_data_classifications)
        self.blocked_data_classifications = frozenset(record.blocked_data_classifications)
        self.capabilities = {
            server: None if "*" in tools else frozenset(tools) for server, tools in record.mcp_capabilities.items()
        } or None
        self.default_risk_score = record.default_risk_score
        self.action_risk_scores = record.action_risk_scores
        self.auto_approve_below = record.autonomous_auto_approve_below if autonomous else record.auto_approve_below
        self.max_risk_threshold = record.autonomous_max_risk_threshold if autonomous else record.max_risk_threshold
        self.requires_mfa_above = record.requires_mfa_above
        self.limits = Limits(record.max_actions_per_minute, record.max_actions_per_hour, record.max_actions_per_day)
        budget = record.max_daily_budget_usd
        self.budget_micros = None if budget is None else int(budget * 1_000_000)
        self.window = TimeWindow(record) if record.time_window_enabled else None
        self.zone = record.time_window_timezone

    def with_policies(self, policies: PolicySet) -> "CompiledAgent":
        """A copy of the agent with these policies: its own, and those of the organisation that bind it."""
        other = copy(self)
        other.policies = policies
        return other

    def with_status(self, status: Status) -> "CompiledAgent":
        """A copy of the agent with this status."""
        other = copy(self)
        other.status, other.active = status, status is Status.ACTIVE
        return other


class TimeWindow:
    """The minutes of the local day in which an agent may act: half-open, over midnight if start is after end."""

    __slots__ = ("days", "end", "start")

    def __init__(self, record: AgentRecord) -> None:
        self.start = minutes(record.time_window_start)
        self.end = minutes(record.time_window_end)
        self.days = frozenset(record.time_window_days)

    def holds(self, minute: int, weekday: int) -> bool:
        """Whether `minute` of the local day on `weekday` is inside; after midnight the previous day counts."""
        if self.start < self.end:
            return self.start <= minute < self.end and weekday in self.days
        if minute >= self.start:
            return weekday in self.days
        return minute < self.end and (weekday - 1 or 7) in self.days


def minutes(clock: str) -> int:
    """Minutes since midnight of "HH:MM"."""
    return int(clock[:2]) * 60 + int(clock[3:])


def binds(selector: Selector | None, agent_type: AgentType, tags: Collection[str]) -> bool:
    """Whether the selector of an organisation policy chooses an agent of this type with these tags."""
    if selector is None:
        return True
    return (not selector.agent_types or agent_type in selector.agent_types) and (
        not selector.tags or any(tag in tags for tag in selector.tags)
    )


def _triggers(record: AgentRecord) -> Triggers | None:
    if not record.auto_suspend_enabled:
        return None
    triggers = Triggers(
        record.auto_suspend_on_error_rate, record.auto_suspend_on_budget_exceeded, record.auto_suspend_on_rate_exceeded
    )
    return None if triggers == (None, False, False) else triggers


def _restriction(names: tuple[str, ...]) -> frozenset[str] | None:
    return frozenset(names) if names else None


def _names_action_types(clause: Clause) -> bool:
    return clause.name in ("action_type", "action_type_in")


def _exact_action_types(found: list[Clause]) -> frozenset[str] | None:
    """The only action types for which the clauses can hold; None if a clause has a prefix or none names a type."""
    types: frozenset[str] | None = None
    for clause in filter(_names_action_types, found):
        entries = [clause.operand] if isinstance(clause.operand, str) else clause.operand
        if any(entry.endswith(".*") for entry in entries):
            return None
        types = frozenset(entries) if types is None else types & frozenset(entries)
    return types
