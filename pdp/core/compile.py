"""Records → what `decide` reads: sets instead of lists, closures instead of conditions, policies in an index.

Every record has passed `pdp.core.records`, so nothing here can fail.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import copy
from operator import attrgetter
from typing import Any, NamedTuple

from pdp.core.action import Action
from pdp.core.conditions import MISSING, Test, clauses, literals, texts, value_at
from pdp.core.index.constraints import Among, Between, Constraint, Containing, Dimension, Outside, Partly
from pdp.core.index.index import Index
from pdp.core.localtime import LocalTime
from pdp.core.model import (
    AgentRecord,
    AgentType,
    Mode,
    OnMissing,
    Outcome,
    PolicyRecord,
    ServerRecord,
    Status,
)
from pdp.core.usage import Limits

ITEMS_OF_PART = 4
"""A text is cut if there are so many policies for each part: that takes at most half as long as to test them all."""


class CompiledPolicy:
    """One active policy. It holds for an action that passes every test."""

    __slots__ = ("action_params", "order", "outcome", "policy_id", "policy_name", "priority", "shadow", "tests")

    def __init__(self, record: PolicyRecord) -> None:
        self.policy_id = record.policy_id
        self.policy_name = record.policy_name
        self.priority = record.priority
        self.order = (record.priority, record.created_at, record.policy_id)
        self.outcome: Outcome = record.policy_action
        self.action_params: Mapping[str, Any] = record.action_params
        self.shadow = record.mode is Mode.SHADOW
        missing = record.on_missing is OnMissing.MATCH
        self.tests: tuple[Test, ...] = tuple(
            clause.operator.compiled(clause.operand, missing) for clause in clauses(record.conditions)
        )


class PolicySet:
    """Compiled policies in the order of evaluation; agents that the same ones bind share one.

    Their records are needed only here: an index is made of the conditions.
    """

    __slots__ = ("enforcing", "shadows")

    def __init__(self, policies: Mapping[CompiledPolicy, PolicyRecord]) -> None:
        self.enforcing = _index(policies, shadow=False)
        self.shadows = _index(policies, shadow=True) if any(policy.shadow for policy in policies) else None


def _index(policies: Mapping[CompiledPolicy, PolicyRecord], *, shadow: bool) -> Index[CompiledPolicy]:
    def needs(policy: CompiledPolicy) -> list[Constraint]:
        return constraints(policies[policy])

    return Index([policy for policy in policies if policy.shadow is shadow], needs, READERS)


def constraints(record: PolicyRecord) -> list[Constraint]:
    """What an action needs for the policy to hold, as far as an index can use it."""
    missing = record.on_missing is OnMissing.MATCH
    found: list[Constraint] = []
    for clause in clauses(record.conditions):
        match clause.name:
            case "resource_matches":
                found += _glob(clause.operand, missing)
            case "attribute_equals":
                found += _attribute(clause.operand, missing)
            case name:
                found.append(_CONSTRAINTS[name](clause.operand, missing))
    return found


def _among(field: str) -> Callable[[Any, bool], Constraint]:
    dimension = Dimension(field)
    return lambda operand, missing: Among(dimension, texts(operand, missing))


def _types(operand: Any, missing: bool) -> Constraint:
    prefixes = frozenset(entry[:-1] for entry in operand if entry.endswith(".*"))
    exact = frozenset(entry for entry in operand if not entry.endswith(".*"))
    return Partly("action_type", prefixes, exact) if prefixes else Among(Dimension("action_type"), exact)


def _glob(operand: str, missing: bool) -> Iterator[Constraint]:
    first, *inner = literals(operand)
    others = texts((), missing)
    if not inner:
        yield Among(Dimension("resource"), others | {first})
        return
    *inner, last = inner
    if first:
        yield Partly("resource", frozenset({first}), others)
    if last:
        yield Partly("resource", frozenset({last}), others, at_end=True)
    if any(inner):
        yield Containing("resource", tuple(filter(None, inner)), others)


def _attribute(operand: tuple[str, Any], missing: bool) -> Iterator[Constraint]:
    path, wanted = operand
    values = {_attribute_key(wanted), MISSING} if missing else {_attribute_key(wanted)}
    yield Among(Dimension("attribute", path), frozenset(values))
    if not missing:
        yield Among(_ATTRIBUTES, frozenset({path.split(".")[0]}))


def _attribute_key(value: Any) -> Any:
    """A hashable value that two attributes share if they are equal, and some others too."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return value
    return _COMPOSITE


_COMPOSITE = object()
_ATTRIBUTES, _LABELS = Dimension("attributes"), Dimension("data_classifications")
_RISK, _AMOUNT, _HOUR, _WEEKDAY = map(Dimension, ("risk", "amount", "hour", "weekday"))
_CONSTRAINTS: Mapping[str, Callable[[Any, bool], Constraint]] = {
    "action_type": _among("action_type"),
    "action_type_in": _types,
    "risk_above": lambda n, missing: Between(_RISK, above=n),
    "risk_below": lambda n, missing: Between(_RISK, below=n),
    "amount_above": lambda n, missing: Between(_AMOUNT, above=n, missing=missing),
    "amount_below": lambda n, missing: Between(_AMOUNT, below=n, missing=missing),
    "resource_in": _among("resource"),
    "resource_not_in": lambda some, missing: Outside(Dimension("resource"), texts(some, not missing)),
    "data_classification": _among("data_classifications"),
    "hour_after": lambda hour, missing: Among(_HOUR, frozenset(range(hour, 24))),
    "hour_before": lambda hour, missing: Among(_HOUR, frozenset(range(hour))),
    "hour_after, hour_before": lambda hours, missing: Among(_HOUR, frozenset((*range(hours[0], 24), *range(hours[1])))),
    "day_in": lambda days, missing: Among(_WEEKDAY, frozenset(days)),
    "mcp_server": _among("mcp_server"),
    "tool_in": _among("tool"),
    "environment": _among("environment"),
}
"""By the name of a clause: (operand, whether it holds for a missing value) → its constraint."""


class _Readers:
    """How an index reads the values of an action."""

    def one(self, dimension: Dimension) -> Callable[[Action, int, LocalTime], Any]:
        field, detail, _ = dimension
        if field == "attribute":
            return _attribute_reader(str(detail))
        if isinstance(detail, int):
            return _READ_PART[field](slice(detail) if detail > 0 else slice(detail, None))
        return _READ[field]

    def several(self, dimension: Dimension) -> Callable[[Action, int], Collection[str] | None] | None:
        field, detail, inside = dimension
        return _parts_reader(field, int(detail)) if inside else _SEVERAL.get(dimension)


_READ: Mapping[str, Callable[[Action, int, LocalTime], Any]] = {
    "action_type": lambda a, r, t: a.action_type,
    "resource": lambda a, r, t: a.resource,
    "mcp_server": lambda a, r, t: a.mcp_server,
    "tool": lambda a, r, t: a.tool,
    "environment": lambda a, r, t: a.environment,
    "risk": lambda a, r, t: r,
    "amount": lambda a, r, t: a.amount,
    "hour": lambda a, r, t: t.hour,
    "weekday": lambda a, r, t: t.weekday,
}


_READ_PART: Mapping[str, Callable[[slice], Callable[[Action, int, LocalTime], str]]] = {
    "action_type": lambda part: lambda a, r, t: a.action_type[part],
    "resource": lambda part: lambda a, r, t: a.resource[part],
}
_SEVERAL: Mapping[Dimension, Callable[[Action, int], Collection[str] | None]] = {
    _LABELS: lambda a, items: (a.data_classifications or ("",)) if len(a.data_classifications) <= items else None,
    _ATTRIBUTES: lambda a, items: a.attributes if len(a.attributes) <= items else None,
}


def _attribute_reader(path: str) -> Callable[[Action, int, LocalTime], Any]:
    names = path.split(".")
    first = names[0]

    def read(action: Action, risk: int, local: LocalTime) -> Any:
        attributes = action.attributes
        if first not in attributes:
            return MISSING
        value = value_at(attributes, names)
        return value if value is MISSING else _attribute_key(value)

    return read


def _parts_reader(field: str, length: int) -> Callable[[Action, int], Collection[str] | None]:
    """Every part of a text with this length."""
    text_of = attrgetter(field)

    def read(action: Action, items: int) -> Collection[str] | None:
        text = text_of(action)
        count = len(text) - length + 1
        if count * ITEMS_OF_PART > items:
            return None
        return [text[start : start + length] for start in range(count)] if text else ("",)

    return read


READERS = _Readers()
NO_POLICIES = PolicySet({})


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
        "organisation",
        "policies",
        "requires_mfa_above",
        "status",
        "tags",
        "triggers",
        "version",
        "window",
        "zone",
    )

    def __init__(self, record: AgentRecord) -> None:
        autonomous = record.agent_type is AgentType.AUTONOMOUS
        self.agent_id = record.agent_id
        self.agent_type = record.agent_type
        self.tags = frozenset(record.tags)
        own = {CompiledPolicy(policy): policy for policy in record.policies if policy.is_active}
        self.policies = PolicySet(own) if own else NO_POLICIES
        self.organisation: PolicySet | None = None
        self.status = record.status
        self.active = record.status is Status.ACTIVE
        self.version = record.version
        self.activations = record.activations
        self.triggers = _triggers(record)
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

    def with_organisation(self, policies: PolicySet | None) -> "CompiledAgent":
        """A copy of the agent that these policies of the organisation bind, beside its own."""
        other = copy(self)
        other.organisation = policies
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


def _triggers(record: AgentRecord) -> Triggers | None:
    if not record.auto_suspend_enabled:
        return None
    triggers = Triggers(
        record.auto_suspend_on_error_rate, record.auto_suspend_on_budget_exceeded, record.auto_suspend_on_rate_exceeded
    )
    return None if triggers == (None, False, False) else triggers


def _restriction(names: tuple[str, ...]) -> frozenset[str] | None:
    return frozenset(names) if names else None
