"""The message of a decision: one sentence for people."""

from collections.abc import Callable
from math import ceil

from pdp.core.action import Action
from pdp.core.compile import CompiledAgent, CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.fields import quote
from pdp.core.model import Outcome, Reason

Sentence = Callable[[CompiledAgent, Action, Decision], str]

_BY_OUTCOME = {
    Outcome.ALLOW: "allows it",
    Outcome.REQUIRE_APPROVAL: "requires an approval",
    Outcome.BLOCK: "blocks it",
    Outcome.ESCALATE: "escalates it",
}

_INTERNAL_ERROR = "the sidecar failed to decide, so the action is blocked"


def message(agent: CompiledAgent | None, action: Action, decision: Decision) -> str:
    """The reason for a decision, in one sentence."""
    if decision.reason is Reason.REGISTRY_STALE:
        return _stale(decision)
    if agent is not None:
        return _SENTENCES[decision.reason](agent, action, decision)
    if decision.reason is Reason.AGENT_NOT_REGISTERED:
        return f"no agent {quote(action.agent_id)} is registered with this sidecar"
    return _INTERNAL_ERROR


def by_policy(policy: CompiledPolicy | None, outcome: Outcome) -> str:
    """The sentence of a policy that decided: the same for each of its decisions."""
    return f"policy {quote(policy.policy_name if policy else '')} {_BY_OUTCOME[outcome]}"


def _rate(agent: CompiledAgent, action: Action, decision: Decision) -> str:
    wait = "" if decision.retry_after is None else f"; retry in {tenths(decision.retry_after):.1f} s"
    return f"agent {quote(action.agent_id)} has reached its rate limit{wait}"


def _stale(decision: Decision) -> str:
    become = "blocked" if decision.outcome is Outcome.BLOCK else "escalated"
    return f"the registry data is older than `--max-staleness` allows, so the action is {become}"


_SENTENCES: dict[Reason, Sentence] = {
    Reason.AGENT_NOT_ACTIVE: lambda g, a, d: f"agent {quote(a.agent_id)} is {g.status.value}",
    Reason.ACTION_NOT_ALLOWED: lambda g, a, d: f"action type {quote(a.action_type)} is not allowed for this agent",
    Reason.RESOURCE_BLOCKED: lambda g, a, d: f"resource {quote(a.resource)} is blocked for this agent",
    Reason.RESOURCE_NOT_ALLOWED: lambda g, a, d: f"resource {quote(a.resource)} is not allowed for this agent",
    Reason.DATA_CLASSIFICATION_BLOCKED: lambda g, a, d: (
        f"data classifications {', '.join(map(quote, a.data_classifications))} are not all allowed"
    ),
    Reason.MCP_SERVER_NOT_REGISTERED: lambda g, a, d: f"MCP server {quote(a.mcp_server)} is not registered",
    Reason.MCP_TOOL_BLOCKED: lambda g, a, d: (
        f"tool {quote(a.tool)} of MCP server {quote(a.mcp_server)} is not allowed for this agent"
    ),
    Reason.OUTSIDE_TIME_WINDOW: lambda g, a, d: f"agent {quote(a.agent_id)} is outside its time window",
    Reason.RATE_LIMIT_EXCEEDED: _rate,
    Reason.BUDGET_EXCEEDED: lambda g, a, d: f"the cost would exceed the daily budget of agent {quote(a.agent_id)}",
    Reason.POLICY_MATCHED: lambda g, a, d: by_policy(d.policy, d.outcome),
    Reason.MCP_TOOL_AUTO_APPROVED: lambda g, a, d: (
        f"tool {quote(a.tool)} of MCP server {quote(a.mcp_server)} is approved for all agents"
    ),
    Reason.RISK_ABOVE_MAXIMUM: lambda g, a, d: f"risk {d.risk_score} is above the maximum of {g.max_risk_threshold}",
    Reason.RISK_BELOW_AUTO_APPROVE: lambda g, a, d: f"risk {d.risk_score} is below {g.auto_approve_below}",
    Reason.RISK_NEEDS_APPROVAL: lambda g, a, d: (
        f"risk {d.risk_score} is within {g.auto_approve_below} to {g.max_risk_threshold}, where a person approves"
    ),
    Reason.MFA_REQUIRED: lambda g, a, d: (
        f"risk {d.risk_score} is above {g.requires_mfa_above} and MFA was not verified"
    ),
    Reason.APPROVED: lambda g, a, d: "a person approved it",
    Reason.APPROVAL_MISMATCH: lambda g, a, d: "the approval was given for another action",
    Reason.INTERNAL_ERROR: lambda g, a, d: _INTERNAL_ERROR,
}


def dollars(micros: int) -> str:
    """An amount in US dollars: to the cent, or to six places if it has fractions of a cent."""
    return f"{micros / 1_000_000:.2f} USD" if micros % 10_000 == 0 else f"{micros / 1_000_000:.6f} USD"


def tenths(seconds: float) -> float:
    """Seconds to one decimal place, rounded up: a caller that waits this long has waited long enough."""
    return ceil(seconds * 10) / 10
