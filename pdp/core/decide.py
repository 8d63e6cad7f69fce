"""The decision: checks one action against the compiled rules of one agent, stage by stage, until a stage decides.

`explain` follows the same procedure on the uncompiled records; tests compare the two.
"""

from collections.abc import Mapping
from math import inf
from operator import attrgetter

from pdp.core.action import Action
from pdp.core.compile import CompiledAgent, CompiledPolicy, CompiledServer
from pdp.core.decision import Decision
from pdp.core.localtime import LocalTime, local_time, next_midnight
from pdp.core.model import Now, Outcome, Reason, StaleMode
from pdp.core.usage import Usage

Servers = Mapping[str, CompiledServer]

ALLOW, REQUIRE_APPROVAL, BLOCK, ESCALATE = Outcome
_, STALE_ESCALATES, STALE_BLOCKS = StaleMode
POLICY_MATCHED = Reason.POLICY_MATCHED
"""To look a member of an enum up in its class takes as long as a call."""
ORDER = attrgetter("order")
NEEDS_APPROVAL = (REQUIRE_APPROVAL, ESCALATE)


def decide(
    agent: CompiledAgent | None,
    servers: Servers,
    action: Action,
    usage: Usage,
    now: Now,
    *,
    approved: bool = False,
    stale: StaleMode | None = None,
) -> Decision:
    """Decides `action` at `now`; `approved`: a person has approved it.

    `stale` is the stale mode if the registry data is older than allowed, else None. Nothing is counted here: `charge`
    counts the decision that is returned.
    """
    if agent is None:
        return _unknown_agent(stale)
    server = servers.get(action.mcp_server) if action.mcp_server else None
    risk = _effective_risk(agent, server, action)
    local = local_time(agent.zone, now.wall)
    reason = _forbidden(agent, server, action, local, stale)
    if reason is not None:
        return Decision(BLOCK, reason, risk)
    wait = usage.wait(agent.limits, now.boot)
    if wait:
        return Decision(BLOCK, Reason.RATE_LIMIT_EXCEEDED, risk, retry_after=None if wait == inf else wait)
    cost = action.estimated_cost_micros or 0
    if agent.budget_micros is not None and usage.spent(local.day) + cost > agent.budget_micros:
        retry_after = next_midnight(agent.zone, now.wall) - now.wall if cost <= agent.budget_micros else None
        return Decision(BLOCK, Reason.BUDGET_EXCEEDED, risk, retry_after=retry_after)
    decision = _judge(agent, server, action, risk, local)
    if stale is STALE_ESCALATES and decision.outcome is not BLOCK:
        decision.outcome, decision.reason, decision.cost_micros = ESCALATE, Reason.REGISTRY_STALE, 0
    elif approved and decision.outcome in NEEDS_APPROVAL:
        _approve(decision, action)
    return decision


def approval_helps(decision: Decision) -> bool:
    """Whether an approval would turn the decision into an allow; stale data cannot be approved."""
    return decision.outcome in NEEDS_APPROVAL and decision.reason is not Reason.REGISTRY_STALE


def withdrawn(
    agent: CompiledAgent | None, servers: Servers, action: Action, now: Now, *, stale: StaleMode | None = None
) -> Decision | None:
    """The decision that replaces an earlier answer that was not a block; None if stages 0 to 3 still permit it."""
    if agent is None:
        return _unknown_agent(stale)
    server = servers.get(action.mcp_server) if action.mcp_server else None
    risk = _effective_risk(agent, server, action)
    reason = _forbidden(agent, server, action, local_time(agent.zone, now.wall), stale)
    if reason is not None:
        return Decision(BLOCK, reason, risk)
    return Decision(ESCALATE, Reason.REGISTRY_STALE, risk) if stale is STALE_ESCALATES else None


def charge(usage: Usage, decision: Decision, boot: float) -> None:
    """Counts a decision that is returned: one action unless it is a block, and the cost of an allow."""
    if decision.outcome is BLOCK:
        return
    usage.count(boot)
    if decision.cost_micros:
        usage.spend(decision.day, decision.cost_micros)


def _effective_risk(agent: CompiledAgent, server: CompiledServer | None, action: Action) -> int:
    """The tool's override, else the larger of the runtime's and the registry's score, else the agent's default."""
    if server is not None and action.tool in server.tool_risk_overrides:
        return server.tool_risk_overrides[action.tool]
    registered = agent.action_risk_scores.get(action.action_type)
    given = action.risk_score
    if given is None:
        return agent.default_risk_score if registered is None else registered
    return given if registered is None or given > registered else registered


def _unknown_agent(stale: StaleMode | None) -> Decision:
    """The decision for an unknown agent; in stale data it may be unknown only because the data is stale."""
    return Decision(BLOCK, Reason.REGISTRY_STALE if stale is STALE_BLOCKS else Reason.AGENT_NOT_REGISTERED)


def _forbidden(
    agent: CompiledAgent, server: CompiledServer | None, action: Action, local: LocalTime, stale: StaleMode | None
) -> Reason | None:
    """The reason to block the action at any risk: stale data, the agent's status, a part of the action, or the time."""
    if stale is STALE_BLOCKS:
        return Reason.REGISTRY_STALE
    if not agent.active:
        return Reason.AGENT_NOT_ACTIVE
    reason = _parts_forbidden(agent, server, action)
    if reason is not None:
        return reason
    if agent.window is not None and not agent.window.holds(local.minute, local.weekday):
        return Reason.OUTSIDE_TIME_WINDOW
    return None


def _parts_forbidden(agent: CompiledAgent, server: CompiledServer | None, action: Action) -> Reason | None:
    """The reason to block the type, resource, data or tool of the action."""
    if agent.allowed_action_types is not None and action.action_type not in agent.allowed_action_types:
        return Reason.ACTION_NOT_ALLOWED
    if action.resource in agent.blocked_resources:
        return Reason.RESOURCE_BLOCKED
    if agent.allowed_resources is not None and action.resource not in agent.allowed_resources:
        return Reason.RESOURCE_NOT_ALLOWED
    if action.data_classifications and _classification_blocked(agent, action.data_classifications):
        return Reason.DATA_CLASSIFICATION_BLOCKED
    if action.mcp_server or action.tool:
        return _tool_forbidden(agent, server, action)
    return None


def _classification_blocked(agent: CompiledAgent, classifications: tuple[str, ...]) -> bool:
    allowed = agent.allowed_data_classifications
    return not agent.blocked_data_classifications.isdisjoint(classifications) or (
        allowed is not None and not allowed.issuperset(classifications)
    )


def _tool_forbidden(agent: CompiledAgent, server: CompiledServer | None, action: Action) -> Reason | None:
    if action.mcp_server and server is None:
        return Reason.MCP_SERVER_NOT_REGISTERED
    if server is not None and action.tool in server.blocked_tools:
        return Reason.MCP_TOOL_BLOCKED
    if agent.capabilities is not None and not _capable(agent.capabilities, action):
        return Reason.MCP_TOOL_BLOCKED
    return None


def _capable(capabilities: Mapping[str, frozenset[str] | None], action: Action) -> bool:
    """Whether the capabilities name the server and tool of the action; false for a tool without a server."""
    if action.mcp_server not in capabilities:
        return False
    tools = capabilities[action.mcp_server]
    return tools is None or action.tool in tools


def _judge(
    agent: CompiledAgent, server: CompiledServer | None, action: Action, risk: int, local: LocalTime
) -> Decision:
    """Stages 5 to 8: the first policy that matches, the server's approved tools, the thresholds, and MFA."""
    needs_mfa = risk > agent.requires_mfa_above and not action.mfa_verified
    policy = agent.policies.enforcing.first(action, risk, local)
    if agent.organisation is not None:
        policy = _earlier(policy, agent.organisation.enforcing.first(action, risk, local))
    shadow = _shadow(agent, action, risk, local)
    if policy is not None:
        outcome, reason = policy.outcome, POLICY_MATCHED
    elif server is not None and action.tool in server.auto_approve_tools:
        outcome, reason = ALLOW, Reason.MCP_TOOL_AUTO_APPROVED
    elif risk > agent.max_risk_threshold:
        outcome, reason = ESCALATE, Reason.RISK_ABOVE_MAXIMUM
    elif risk < agent.auto_approve_below:
        outcome, reason = ALLOW, Reason.RISK_BELOW_AUTO_APPROVE
    else:
        outcome, reason = REQUIRE_APPROVAL, Reason.RISK_NEEDS_APPROVAL
    if outcome is ALLOW and needs_mfa:
        outcome, reason = REQUIRE_APPROVAL, Reason.MFA_REQUIRED
    cost = action.estimated_cost_micros or 0
    return Decision(
        outcome,
        reason,
        risk,
        policy,
        needs_mfa and outcome is not BLOCK,
        None,
        cost if outcome is ALLOW else 0,
        shadow,
        local.day,
    )


def _approve(decision: Decision, action: Action) -> None:
    """Turns a decision that a person has approved into an allow."""
    decision.outcome, decision.reason, decision.mfa_required = ALLOW, Reason.APPROVED, False
    decision.cost_micros = action.estimated_cost_micros or 0


def _earlier(one: CompiledPolicy | None, other: CompiledPolicy | None) -> CompiledPolicy | None:
    if one is None or (other is not None and other.order < one.order):
        return other
    return one


def _shadow(agent: CompiledAgent, action: Action, risk: int, local: LocalTime) -> tuple[CompiledPolicy, ...]:
    """The shadow policies that hold, in order."""
    found = agent.policies.shadows.all(action, risk, local) if agent.policies.shadows is not None else ()
    if agent.organisation is None or agent.organisation.shadows is None:
        return found
    return tuple(sorted((*found, *agent.organisation.shadows.all(action, risk, local)), key=ORDER))
