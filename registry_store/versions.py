"""Versions of an agent's configuration: 1.0.0, 1.1.0, 1.2.0, … of which one is active."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.activity import Actor
from registry_store.tables import Agent, AgentVersion

VERSIONED = frozenset(
    {
        "allowed_action_types",
        "allowed_resources",
        "blocked_resources",
        "auto_approve_below",
        "max_risk_threshold",
        "requires_mfa_above",
        "autonomous_auto_approve_below",
        "autonomous_max_risk_threshold",
        "mcp_capabilities",
        "agent_type",
        "action_risk_scores",
        "allowed_data_classifications",
        "blocked_data_classifications",
        "max_actions_per_minute",
        "max_actions_per_hour",
        "max_actions_per_day",
        "limit_scope",
        "on_quota_unavailable",
        "max_daily_budget_usd",
        "time_window_enabled",
        "time_window_start",
        "time_window_end",
        "time_window_timezone",
        "time_window_days",
    }
)
"""A change to any of these makes a version."""

INITIAL_NOTE = "Initial registration"


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The fields whose values differ, in the order of `after`."""
    return [name for name in after if name not in before or before[name] != after[name]]


def add(session: AsyncSession, agent: Agent, notes: str, actor: Actor) -> None:
    """Store the agent's configuration as the next version after the highest ever used, and make it the active one."""
    agent.latest_minor += 1
    agent.version = version_of(agent.latest_minor)
    session.add(
        AgentVersion(
            agent_id=agent.agent_id,
            minor=agent.latest_minor,
            version_notes=notes,
            configuration=agent.configuration,
            created_at=actor.at,
            created_by=actor.name,
        )
    )


def default_note(fields: Iterable[str]) -> str:
    """The note of a change whose author left none."""
    return f"Updated: {', '.join(fields)}"


def version_of(minor: int) -> str:
    """A version's name by its number."""
    return f"1.{minor}.0"
