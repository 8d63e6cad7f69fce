"""The stages of the decision, one function for each row of the specification, read straight from the records."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pdp.core.action import Action
from pdp.core.explanation.situation import Situation, effective_risk, held, local_at, policies_of
from pdp.core.fields import quote
from pdp.core.messages import dollars, tenths
from pdp.core.model import AgentRecord, AgentType, Mode, Outcome, PolicyRecord, Reason, StaleMode, Status
from pdp.core.usage import UNKNOWN_MICROS, Limits

WEEKDAYS = ("", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Ruling(NamedTuple):
    """The decision of a stage."""

    outcome: Outcome
    reason: Reason
    retry_after: float | None = None


class Finding(NamedTuple):
    """The finding of a stage in words, and its ruling if it decides."""

    detail: str
    ruling: Ruling | None = None


def registry_data(stale: StaleMode | None) -> Finding:
    """Whether the registry data is too old to decide from; to escalate, the later stages run first."""
    if stale is None:
        return Finding("fresh enough to decide from")
    if stale is StaleMode.SERVE:
        return Finding("older than allowed, but used anyway")
    if stale is StaleMode.ESCALATE:
        return Finding("older than allowed, so what no later stage blocks is escalated")
    return _block(Reason.REGISTRY_STALE, "older than allowed, so everything is blocked")


def _agent(situation: Situation) -> Finding:
    agent = situation.agent
    if agent.status is Status.ACTIVE:
        return Finding(f"{quote(agent.agent_id)} is active")
    return _block(Reason.AGENT_NOT_ACTIVE, f"{quote(agent.agent_id)} is {agent.status.value}, not active")


def _action_type(situation: Situation) -> Finding:
    allowed, action_type = situation.agent.allowed_action_types, situation.action.action_type
    if not allowed:
        return Finding("allowed_action_types is empty, so any is allowed")
    if action_type in allowed:
        return Finding(f"{quote(action_type)} is among allowed_action_types")
    return _block(Reason.ACTION_NOT_ALLOWED, f"{quote(action_type)} is outside allowed_action_types")


def _resource(situation: Situation) -> Finding:
    agent, resource = situation.agent, situation.action.resource
    named = f"resource {quote(resource)}" if resource else "an action without a resource"
    if resource in agent.blocked_resources:
        return _block(Reason.RESOURCE_BLOCKED, f"{named} is in blocked_resources")
    if not agent.allowed_resources:
        return Finding(f"{named} is not blocked, and allowed_resources is empty, so any other is allowed")
    if resource in agent.allowed_resources:
        return Finding(f"{named} is among allowed_resources")
    return _block(Reason.RESOURCE_NOT_ALLOWED, f"{named} is not among allowed_resources")


def _data_classification(situation: Situation) -> Finding:
    agent, carried = situation.agent, situation.action.data_classifications
    blocked = [label for label in carried if label in agent.blocked_data_classifications]
    if blocked:
        return _block(Reason.DATA_CLASSIFICATION_BLOCKED, f"{_listed(blocked)} in blocked_data_classifications")
    outside = [label for label in carried if label not in agent.allowed_data_classifications]
    if agent.allowed_data_classifications and outside:
        return _block(Reason.DATA_CLASSIFICATION_BLOCKED, f"{_listed(outside)} outside allowed_data_classifications")
    return Finding(f"{_listed(carried)} allowed" if carried else "the action carries none")


def _mcp(situation: Situation) -> Finding:
    agent, action, governing = situation.agent, situation.action, situation.governing
    if not action.mcp_server and not action.tool:
        return Finding("the action uses no MCP server")
    if action.mcp_server and situation.server is None:
        detail = f"server {quote(action.mcp_server)} is not in the registry"
        return _block(Reason.MCP_SERVER_NOT_REGISTERED, detail)
    if governing is not None and action.tool in governing.blocked_tools:
        return _block(Reason.MCP_TOOL_BLOCKED, f"{_tool(action)} is in its blocked_tools")
    if not agent.mcp_capabilities:
        return Finding(f"{_tool(action)} is not blocked, and mcp_capabilities names no server, so any is allowed")
    granted = agent.mcp_capabilities.get(action.mcp_server, ())
    if "*" in granted or action.tool in granted:
        return Finding(f"{_tool(action)} is among mcp_capabilities")
    return _block(Reason.MCP_TOOL_BLOCKED, f"{_tool(action)} is outside mcp_capabilities")


def _time_window(situation: Situation) -> Finding:
    agent, local = situation.agent, situation.local
    if not agent.time_window_enabled:
        return Finding("no time window is set")
    clock = f"{local.minute // 60:02}:{local.minute % 60:02}"
    start, end = agent.time_window_start, agent.time_window_end
    yesterday = 7 if local.weekday == 1 else local.weekday - 1
    if start < end:
        inside = start <= clock < end and local.weekday in agent.time_window_days
    else:  # the hours after midnight belong to the day on which the window started
        inside = (clock >= start and local.weekday in agent.time_window_days) or (
            clock < end and yesterday in agent.time_window_days
        )
    days = ", ".join(WEEKDAYS[day] for day in sorted(agent.time_window_days))
    window = f"{start} to {end} {agent.time_window_timezone} on {days}"
    detail = f"{clock} on {WEEKDAYS[local.weekday]} is {'inside' if inside else 'outside'} {window}"
    return Finding(detail) if inside else _block(Reason.OUTSIDE_TIME_WINDOW, detail)


def _rate_limit(situation: Situation) -> Finding:
    limits = limits_of(situation.agent)
    wait = situation.usage.wait(limits, situation.now.boot)
    named = zip(("a minute", "an hour", "a day"), limits, strict=True)
    text = ", ".join(f"{limit} {window}" for window, limit in named if limit is not None)
    if wait == 0:
        return Finding(f"one more action keeps within {text}" if text else "no rate limit is set")
    if wait == inf:
        return _block(Reason.RATE_LIMIT_EXCEEDED, f"the limit is {text}, so no action ever passes")
    return Finding(
        f"{text} is used up for {tenths(wait):.1f} s", Ruling(Outcome.BLOCK, Reason.RATE_LIMIT_EXCEEDED, wait)
    )


def _budget(situation: Situation) -> Finding:
    agent, cost = situation.agent, situation.action.estimated_cost_micros or 0
    if agent.max_daily_budget_usd is None:
        return Finding("no daily budget is set")
    budget = int(agent.max_daily_budget_usd * 1_000_000)
    spent = situation.usage.spent(situation.local.day)
    text = dollars(spent) if spent < UNKNOWN_MICROS else "an amount that is not known"
    detail = f"{text} of {dollars(budget)} spent today, and this action costs {dollars(cost)}"
    if spent + cost <= budget:
        return Finding(detail)
    retry_after = _seconds_to_midnight(situation) if cost <= budget else None
    return Finding(detail, Ruling(Outcome.BLOCK, Reason.BUDGET_EXCEEDED, retry_after))


def _policy(situation: Situation) -> Finding:
    policy = deciding_policy(situation)
    if policy is None:
        count = len(policies_of(situation, Mode.ENFORCE))
        return Finding(f"no enforcing policy holds (of {count})" if count else "no enforcing policy binds the agent")
    detail = f"{quote(policy.policy_name)} is the first that holds: {_name(policy.policy_action)}"
    return Finding(detail, Ruling(policy.policy_action, Reason.POLICY_MATCHED))


def _auto_approved(situation: Situation) -> Finding:
    if situation.governing is None:
        return Finding("the action uses no governed MCP server")
    if situation.action.tool not in situation.governing.auto_approve_tools:
        return Finding(f"{_tool(situation.action)} is not in its auto_approve_tools")
    detail = f"{_tool(situation.action)} is in its auto_approve_tools"
    return Finding(detail, Ruling(Outcome.ALLOW, Reason.MCP_TOOL_AUTO_APPROVED))


def _risk(situation: Situation) -> Finding:
    risk, source = effective_risk(situation)
    low, high = thresholds(situation)
    text = f"risk {risk} ({source})"
    if risk > high:
        return Finding(f"{text} is above the maximum of {high}", Ruling(Outcome.ESCALATE, Reason.RISK_ABOVE_MAXIMUM))
    if risk < low:
        return Finding(f"{text} is below {low}", Ruling(Outcome.ALLOW, Reason.RISK_BELOW_AUTO_APPROVE))
    detail = f"{text} is neither below {low} nor above {high}, so a person approves"
    return Finding(detail, Ruling(Outcome.REQUIRE_APPROVAL, Reason.RISK_NEEDS_APPROVAL))


def mfa(situation: Situation) -> Finding:
    """Whether an allow needs MFA that was not verified."""
    above, risk = situation.agent.requires_mfa_above, situation.risk
    if risk <= above:
        return Finding(f"risk {risk} is not above {above}, so none is needed")
    if situation.action.mfa_verified:
        return Finding(f"risk {risk} is above {above}, and MFA was verified")
    detail = f"risk {risk} is above {above} and MFA was not verified, so the allow needs an approval"
    return Finding(detail, Ruling(Outcome.REQUIRE_APPROVAL, Reason.MFA_REQUIRED))


STAGES: tuple[tuple[str, Callable[[Situation], Finding]], ...] = (
    ("registry data", lambda situation: registry_data(situation.stale)),
    ("agent", _agent),
    ("action type", _action_type),
    ("resource", _resource),
    ("data classification", _data_classification),
    ("MCP server and tool", _mcp),
    ("time window", _time_window),
    ("rate limit", _rate_limit),
    ("budget", _budget),
    ("policies", _policy),
    ("auto-approved tools", _auto_approved),
    ("risk", _risk),
    ("MFA", mfa),
)


def limits_of(agent: AgentRecord) -> Limits:
    """The agent's rate limits."""
    return Limits(agent.max_actions_per_minute, agent.max_actions_per_hour, agent.max_actions_per_day)


def thresholds(situation: Situation) -> tuple[int, int]:
    """The risk below which the agent is allowed, and the one above which it is escalated."""
    agent = situation.agent
    if agent.agent_type is AgentType.AUTONOMOUS:
        return agent.autonomous_auto_approve_below, agent.autonomous_max_risk_threshold
    return agent.auto_approve_below, agent.max_risk_threshold


def deciding_policy(situation: Situation) -> PolicyRecord | None:
    """The first enforcing policy that holds."""
    return next((policy for policy in policies_of(situation, Mode.ENFORCE) if held(policy, situation)), None)


def _seconds_to_midnight(situation: Situation) -> float:
    """Seconds until the next local date begins, even if a clock change skips or repeats 00:00."""
    zone, wall = situation.agent.time_window_timezone, situation.now.wall
    tomorrow = datetime.fromordinal(situation.local.day) + timedelta(days=1)
    instants = [tomorrow.replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() for fold in (0, 1)]
    return min(at for at in instants if at > wall and local_at(zone, at).day > situation.local.day) - wall


def _block(reason: Reason, detail: str) -> Finding:
    return Finding(detail, Ruling(Outcome.BLOCK, reason))


def _tool(action: Action) -> str:
    server = f"server {quote(action.mcp_server)}" if action.mcp_server else "no server"
    return f"tool {quote(action.tool)} of {server}" if action.tool else f"{server} without a tool"


def _listed(labels: Iterable[str]) -> str:
    labels = tuple(labels)
    return f"{', '.join(map(quote, labels))} {'is' if len(labels) == 1 else 'are'}"


def _name(outcome: Outcome) -> str:
    return outcome.name.lower()
