"""The input of one decision as records: `explain` reads it, and a change alters it."""

from collections.abc import Mapping
from datetime import datetime
from math import floor
from types import MappingProxyType
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from pdp.core.action import Action
from pdp.core.conditions import MISSING, Clause, clauses
from pdp.core.fields import quote
from pdp.core.localtime import LocalTime
from pdp.core.model import AgentRecord, Mode, Now, OnMissing, PolicyRecord, ServerRecord, StaleMode
from pdp.core.usage import Limits


class History(Protocol):
    """What an agent has used; `Usage` implements it."""

    def wait(self, limits: Limits, boot: float) -> float:
        """Seconds until one more action passes every limit: 0 if it does now, infinite if it never will."""

    def spent(self, day: int) -> int:
        """Micro-dollars spent on a local day."""


class Records(NamedTuple):
    """The agent that wants to act, the organisation's policies, and the MCP servers by name."""

    agent: AgentRecord | None
    organisation: tuple[PolicyRecord, ...] = ()
    servers: Mapping[str, ServerRecord] = MappingProxyType({})


class Situation(NamedTuple):
    """An action of a registered agent, with the rules, the usage before it, the time, and whether it is approved.

    `stale` is the stale mode if the registry data is older than allowed, else None.
    """

    agent: AgentRecord
    organisation: tuple[PolicyRecord, ...]
    servers: Mapping[str, ServerRecord]
    action: Action
    usage: History
    now: Now
    approved: bool = False
    stale: StaleMode | None = None

    @property
    def server(self) -> ServerRecord | None:
        """The MCP server that the action names, if the registry knows it."""
        return self.servers.get(self.action.mcp_server)

    @property
    def governing(self) -> ServerRecord | None:
        """The server whose three tool rules apply."""
        return self.server if self.server is not None and self.server.governance_enabled else None

    @property
    def local(self) -> LocalTime:
        """The time in the agent's zone."""
        return local_at(self.agent.time_window_timezone, self.now.wall)

    @property
    def risk(self) -> int:
        """The effective risk."""
        return effective_risk(self)[0]


def local_at(zone: str, wall: float) -> LocalTime:
    """The local time in `zone` at `wall`, computed without the cache of `pdp.core.localtime`."""
    local = datetime.fromtimestamp(floor(wall), ZoneInfo(zone))
    return LocalTime(local.hour, local.hour * 60 + local.minute, local.isoweekday(), local.toordinal())


def effective_risk(situation: Situation) -> tuple[int, str]:
    """The risk that counts, and where it comes from."""
    agent, action, server = situation.agent, situation.action, situation.governing
    if server is not None and action.tool in server.tool_risk_overrides:
        return server.tool_risk_overrides[action.tool], f"set for tool {quote(action.tool)} by its MCP server"
    scores = []
    if action.risk_score is not None:
        scores.append((action.risk_score, "given with the action"))
    if action.action_type in agent.action_risk_scores:
        registered = agent.action_risk_scores[action.action_type]
        scores.append((registered, f"set for {quote(action.action_type)} in action_risk_scores"))
    return max(scores, key=lambda score: score[0], default=(agent.default_risk_score, "the default_risk_score"))


def policies_of(situation: Situation, mode: Mode) -> list[PolicyRecord]:
    """The active policies of one mode that bind the agent, in the order of evaluation: priority, then age."""
    bound = [*situation.agent.policies, *(policy for policy in situation.organisation if _binds(policy, situation))]
    active = [policy for policy in bound if policy.is_active and policy.mode is mode]
    return sorted(active, key=lambda policy: (policy.priority, policy.created_at, policy.policy_id))


def _binds(policy: PolicyRecord, situation: Situation) -> bool:
    selector, agent = policy.applies_to, situation.agent
    if selector is None:
        return True
    if selector.agent_types and agent.agent_type not in selector.agent_types:
        return False
    return not selector.tags or bool(set(selector.tags) & set(agent.tags))


def held(policy: PolicyRecord, situation: Situation) -> bool:
    """Whether every condition of the policy holds."""
    return all(clause_held(clause, policy, situation) for clause in clauses(policy.conditions))


def clause_held(clause: Clause, policy: PolicyRecord, situation: Situation) -> bool:
    """Whether one condition holds; `on_missing` decides if the action lacks the value."""
    seen = value_seen(clause, situation)
    if seen is MISSING:
        return policy.on_missing is OnMissing.MATCH
    return clause.operator.holds(seen, clause.operand)


def value_seen(clause: Clause, situation: Situation) -> object:
    """The value that the condition checks, or MISSING."""
    return clause.operator.seen(situation.action, situation.risk, situation.local, clause.operand)
