"""Versions of an agent's configuration: 1.0.0, 1.1.0, 1.2.0, …; one of them is active.

What the versions of policies share with them is here too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from pdp.core.fields import Field, quote
from pdp.core.json.equality import same_json
from pdp.core.records import PROSE, VERSION
from registry_store.database import paging
from registry_store.database.tables import Agent, AgentVersion, PolicyVersion
from registry_store.documents import Document, to_json
from registry_store.errors import NotFoundError
from registry_store.journal.activity import Actor

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
        "escalation_team",
    }
)
"""A change to any of these fields makes a version."""

INITIAL_NOTE = "Initial registration"

NOTES: dict[str, Field] = {
    "version_notes": Field(PROSE, "", about="Reason for the change; the note of the new version")
}
ROLLBACK_BODY: dict[str, Field] = {
    "target_version": Field(VERSION, "", required=True, about="Version to restore, such as 1.0.0"),
    "reason": Field(PROSE, "", about="Reason, kept in the activity log"),
}
Stored = TypeVar("Stored", AgentVersion, PolicyVersion)


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The fields with different values, in the order of `after`."""
    return [name for name in after if name not in before or not same_json(before[name], after[name])]


def add(session: AsyncSession, agent: Agent, notes: str, actor: Actor) -> None:
    """Stores the agent's configuration as the next version after the highest ever used, and activates it."""
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


async def page(
    session: AsyncSession, table: type[Stored], of_record: ColumnElement[bool], limit: int, offset: int
) -> tuple[Sequence[Stored], int]:
    """A page of one record's versions, newest first and without configurations, and the total count."""
    newest_first = select(table).where(of_record).order_by(table.minor.desc())
    without_configurations = newest_first.options(defer(table.configuration, raiseload=True))
    return await paging.page(session, without_configurations, limit, offset)


async def get(session: AsyncSession, agent_id: str, version: str) -> AgentVersion:
    """The version with this name; `NotFoundError` if the agent never had it."""
    minor = minor_of(version)
    found = None if minor is None else await session.get(AgentVersion, (agent_id, minor))
    if found is None:
        raise NotFoundError(f"no version {quote(version)} of agent `{agent_id}`")
    return found


def document(version: AgentVersion | PolicyVersion, active: str | None) -> Document:
    """The version in the form of lists; `active` is the name of the active version, None of a removed policy."""
    name = version_of(version.minor)
    return {
        "version": name,
        "is_active": name == active,
        "version_notes": version.version_notes,
        "created_at": to_json(version.created_at),
        "created_by": version.created_by,
    }


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Document]:
    """The fields that differ between two configurations, with both values."""
    return [{"field": name, "before": before.get(name), "after": after[name]} for name in changed_fields(before, after)]


def default_note(fields: Iterable[str]) -> str:
    """The note of a change without a note of its author."""
    return f"Updated: {', '.join(fields)}"


def version_of(minor: int) -> str:
    """The name of the version with this minor number."""
    return f"1.{minor}.0"


def minor_of(version: str) -> int | None:
    """The minor number of a version's name; None if no version has this name."""
    match = re.fullmatch(r"1\.(0|[1-9][0-9]{0,17})\.0", version)
    return int(match[1]) if match else None
