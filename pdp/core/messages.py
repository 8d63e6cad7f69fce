"""The one sentence for people that goes with a decision."""

from collections.abc import Callable

from pdp.core.compile import CompiledAgent
from pdp.core.fields import quote
from pdp.core.model import Action, Decision, Outcome, Reason

Sentence = Callable[[CompiledAgent | None, Action, Decision], str]

_BY_OUTCOME = {
    Outcome.ALLOW: "allows it",
    Outcome.REQUIRE_APPROVAL: "requires an approval",
    Outcome.BLOCK: "blocks it",
    Outcome.ESCALATE: "escalates it",
}


def message(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    """Why an action was decided as it was, in one sentence."""
    return _SENTENCES[decision.reason](agent, action, decision)


def _status(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    return f"agent {quote(action.agent_id)} is {agent.status.value if agent else 'unknown'}"


def _rate(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    wait = "" if decision.retry_after is None else f"; it passes in {decision.retry_after:.1f} s"
    return f"agent {quote(action.agent_id)} has used up its rate limit{wait}"


def _policy(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    name = decision.policy.policy_name if decision.policy else ""
    return f"policy {quote(name)} {_BY_OUTCOME[decision.outcome]}"


def _maximum(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    return f"risk {decision.risk_score} is above the maximum of {agent.max_risk_threshold if agent else 0}"


def _low(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    return f"risk {decision.risk_score} is below {agent.auto_approve_below if agent else 0}"


def _middle(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    low, high = (agent.auto_approve_below, agent.max_risk_threshold) if agent else (0, 0)
    return f"risk {decision.risk_score} is within {low} to {high}, where a person approves"


def _mfa(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    return f"risk {decision.risk_score} is above {agent.requires_mfa_above if agent else 0} and MFA was not verified"


_SENTENCES: dict[Reason, Sentence] = {
    Reason.AGENT_NOT_REGISTERED: lambda g, a, d: f"no agent {quote(a.agent_id)} is registered with this sidecar",
    Reason.AGENT_NOT_ACTIVE: _status,
    Reason.ACTION_NOT_ALLOWED: lambda g, a, d: f"action type {quote(a.action_type)} is not among the allowed ones",
    Reason.RESOURCE_BLOCKED: lambda g, a, d: f"resource {quote(a.resource)} is blocked for this agent",
    Reason.RESOURCE_NOT_ALLOWED: lambda g, a, d: f"resource {quote(a.resource)} is not among the allowed ones",
    Reason.DATA_CLASSIFICATION_BLOCKED: lambda g, a, d: (
        f"data classifications {', '.join(map(quote, a.data_classifications))} are not all allowed"
    ),
    Reason.MCP_SERVER_NOT_REGISTERED: lambda g, a, d: f"MCP server {quote(a.mcp_server)} is not registered",
    Reason.MCP_TOOL_BLOCKED: lambda g, a, d: (
        f"tool {quote(a.tool)} of MCP server {quote(a.mcp_server)} is not open to this agent"
    ),
    Reason.OUTSIDE_TIME_WINDOW: lambda g, a, d: f"agent {quote(a.agent_id)} is outside its time window",
    Reason.RATE_LIMIT_EXCEEDED: _rate,
    Reason.BUDGET_EXCEEDED: lambda g, a, d: f"the cost would pass the daily budget of agent {quote(a.agent_id)}",
    Reason.POLICY_MATCHED: _policy,
    Reason.MCP_TOOL_AUTO_APPROVED: lambda g, a, d: (
        f"tool {quote(a.tool)} of MCP server {quote(a.mcp_server)} is approved for all"
    ),
    Reason.RISK_ABOVE_MAXIMUM: _maximum,
    Reason.RISK_BELOW_AUTO_APPROVE: _low,
    Reason.RISK_NEEDS_APPROVAL: _middle,
    Reason.MFA_REQUIRED: _mfa,
    Reason.APPROVED: lambda g, a, d: "a person approved it",
    Reason.APPROVAL_MISMATCH: lambda g, a, d: "the approval was given for another action",
    Reason.INTERNAL_ERROR: lambda g, a, d: "the decision failed inside the sidecar, so the action is blocked",
}
