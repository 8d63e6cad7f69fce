"""The tables of the registry: records, approvals, keys, the journal, alerts and sidecars."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from registry_store.database.columns import Base, JsonDocument, JsonOrNull, partial_index


class Meta(Base):
    """The one row that every writer locks: it orders the revisions and the activity chain."""

    __tablename__ = "meta"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str]
    revision: Mapped[int]
    oldest_revision: Mapped[int]
    """Changes after this revision are kept."""
    activity_sequence: Mapped[int]
    activity_hash: Mapped[str]
    pepper_check: Mapped[str | None]


class Agent(Base):
    __tablename__ = "agents"
    __table_args__ = (
        Index("ix_agents_status", "status", "agent_id"),
        Index("ix_agents_agent_type", "agent_type", "agent_id"),
        Index("ix_agents_status_type", "status", "agent_type", "agent_id", unique=True),
        partial_index("ix_agents_offline", "offline_minutes IS NOT NULL", "agent_id"),
    )

    agent_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    agent_type: Mapped[str]
    configuration: Mapped[dict[str, Any]]
    version: Mapped[str]
    latest_minor: Mapped[int]
    activations: Mapped[int] = mapped_column(server_default="0")
    """How often a person activated it: what counted towards a suspension before the last time counts no more."""
    activated_at: Mapped[datetime | None]
    """When it last became active; null: before this was kept, or never."""
    offline_minutes: Mapped[int | None]
    """A copy from the configuration; null if the agent is not watched."""
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AgentTag(Base):
    """A tag of an agent, and copies of the agent's status and type; the foreign key keeps them equal to the agent's."""

    __tablename__ = "agent_tags"
    __table_args__ = (
        ForeignKeyConstraint(
            ["status", "agent_type", "agent_id"],
            ["agents.status", "agents.agent_type", "agents.agent_id"],
            name="fk_agent_tags_agent",
            onupdate="CASCADE",
        ),
        Index("ix_agent_tags_tag", "tag", "agent_id"),
        Index("ix_agent_tags_status", "tag", "status", "agent_id"),
        Index("ix_agent_tags_type", "tag", "agent_type", "agent_id"),
        Index("ix_agent_tags_status_type", "tag", "status", "agent_type", "agent_id"),
    )

    agent_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(server_default="")
    agent_type: Mapped[str] = mapped_column(server_default="")


class AgentVersion(Base):
    __tablename__ = "agent_versions"

    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.agent_id"), primary_key=True)
    minor: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version_notes: Mapped[str]
    configuration: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class Policy(Base):
    """A policy of an agent, or of the organisation if `agent_id` is null."""

    __tablename__ = "policies"
    __table_args__ = (
        partial_index("uq_policies_agent_name", "agent_id IS NOT NULL", "agent_id", "policy_name", unique=True),
        partial_index("uq_policies_organisation_name", "agent_id IS NULL", "policy_name", unique=True),
        Index("ix_policies_order", "agent_id", "priority", "created_at", "policy_id"),
    )

    policy_id: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str | None] = mapped_column(ForeignKey("agents.agent_id"))
    policy_name: Mapped[str]
    priority: Mapped[int]
    body: Mapped[dict[str, Any]]
    size: Mapped[int]
    """Bytes of the body as JSON, in the document of the agent."""
    version: Mapped[str] = mapped_column(server_default="1.0.0")
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class PolicyVersion(Base):
    """A version of a policy; the versions stay when the policy is removed, with what is needed to restore it."""

    __tablename__ = "policy_versions"

    policy_id: Mapped[str] = mapped_column(primary_key=True)
    minor: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    agent_id: Mapped[str | None] = mapped_column(ForeignKey("agents.agent_id"))
    policy_created_at: Mapped[datetime]
    version_notes: Mapped[str]
    configuration: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class McpServer(Base):
    __tablename__ = "mcp_servers"

    server_name: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]]
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Change(Base):
    """A record that a revision changed; subscribers get its newest state."""

    __tablename__ = "changes"

    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    record_id: Mapped[str] = mapped_column(primary_key=True)
    former_tags: Mapped[list[str]]
    """Tags that this revision removed from the agent: their subscribers must be notified that the agent left."""
    committed_at: Mapped[datetime]


class Activity(Base):
    """An entry of the hash chain; the states are stored as the text that was hashed."""

    __tablename__ = "activity"
    __table_args__ = (
        Index("ix_activity_agent", "agent_id", "sequence"),
        Index("ix_activity_type", "activity_type", "sequence"),
        Index("ix_activity_performed_by", "performed_by", "sequence"),
        Index("ix_activity_timestamp", "timestamp", "sequence"),
        Index("ix_activity_subject_kind", "subject_kind", "sequence"),
        Index("ix_activity_subject_id", "subject_id", "sequence"),
        partial_index("ix_activity_changes", "subject_kind <> 'approval'", "sequence", "subject_kind"),
    )

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    activity_type: Mapped[str]
    activity_description: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[str]
    agent_id: Mapped[str | None]
    performed_by: Mapped[str]
    performed_via: Mapped[str]
    key_id: Mapped[str | None]
    timestamp: Mapped[datetime]
    previous_state: Mapped[str | None]
    new_state: Mapped[str | None]
    previous_hash: Mapped[str]
    hash: Mapped[str]


class EmergencyStop(Base):
    """A stop, in force until it is released; at most one stop per selector is in force."""

    __tablename__ = "emergency_stops"
    __table_args__ = (
        partial_index("uq_emergency_stops_in_force", "released_at IS NULL", "selector_hash", unique=True),
    )

    stop_id: Mapped[str] = mapped_column(primary_key=True)
    selector: Mapped[dict[str, Any]]
    selector_hash: Mapped[str]
    reason: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]


class StoppedAgent(Base):
    """An agent that a stop keeps suspended."""

    __tablename__ = "emergency_stop_agents"
    __table_args__ = (Index("ix_emergency_stop_agents_agent", "agent_id"),)

    stop_id: Mapped[str] = mapped_column(ForeignKey("emergency_stops.stop_id"), primary_key=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.agent_id"), primary_key=True)


class Key(Base):
    """An API key, stored as a keyed hash."""

    __tablename__ = "keys"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    agent_id: Mapped[str | None]
    groups: Mapped[list[str]] = mapped_column(server_default="[]", default=list)
    """Groups whose approvals the key of an approver or admin may decide, in addition to those that name the key."""
    mfa: Mapped[bool] = mapped_column(server_default=false(), default=False)
    """Whether its holder signs in with MFA."""
    agents: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    """Agents that a sidecar's key may sync and report on; every agent if this and `tags` are null."""
    tags: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    hash: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Approval(Base):
    """A request of a sidecar for approval: one action of one agent, allowed once."""

    __tablename__ = "approvals"
    __table_args__ = (
        Index("ix_approvals_status", "status", "approval_id"),
        Index("ix_approvals_agent", "agent_id", "status", "approval_id"),
        Index("ix_approvals_expiry", "status", "expires_at"),
        partial_index(
            "uq_approvals_pending", "status = 'pending'", "agent_id", "action_sha256", "demand_sha256", unique=True
        ),
    )

    approval_id: Mapped[str] = mapped_column(primary_key=True)
    decision_id: Mapped[str]
    node_id: Mapped[str]
    agent_id: Mapped[str]
    status: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str]
    policy: Mapped[dict[str, Any] | None]
    action: Mapped[dict[str, Any]]
    action_sha256: Mapped[str]
    approvers: Mapped[list[str]]
    team: Mapped[str | None]
    next_team: Mapped[str | None]
    """The team that it goes to when nobody decided in time; null once it is there."""
    min_approvers: Mapped[int] = mapped_column(server_default="1", default=1)
    """How many different people must approve."""
    approved_by: Mapped[list[dict[str, Any]]] = mapped_column(JsonDocument, server_default="[]", default=list)
    """The people who approved it, in order: `name`, `comment`, `at`."""
    mfa_required: Mapped[bool] = mapped_column(server_default=false(), default=False)
    demand_sha256: Mapped[str | None]
    """SHA-256 of who must decide; with the agent and the action, only one such approval is pending."""
    timeout_seconds: Mapped[int]
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    """While pending: the deadline to decide; once approved: the deadline to use it."""
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    comment: Mapped[str | None]
    used_at: Mapped[datetime | None]
    use_id: Mapped[str | None]


class ApprovalAlias(Base):
    """Another id of an approval: under it a sidecar asked what was already pending."""

    __tablename__ = "approval_aliases"

    alias_id: Mapped[str] = mapped_column(primary_key=True)
    approval_id: Mapped[str] = mapped_column(ForeignKey("approvals.approval_id"))


class SidecarPresence(Base):
    """When a sidecar was last heard by any store, and the agents that it served; both lists null: all."""

    __tablename__ = "sidecar_presence"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    agent_ids: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    tags: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    connected: Mapped[bool]
    heard_at: Mapped[datetime]


class Alert(Base):
    """Something that people are told: events of one subject and kind in a period, with their number."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("uq_alerts_period", "subject", "kind", "since", unique=True),
        Index("ix_alerts_due", "next_attempt_at"),
        Index("ix_alerts_status", "status", "alert_id"),
        Index("ix_alerts_kind", "kind", "alert_id"),
        Index("ix_alerts_agent", "agent_id", "alert_id"),
        Index("ix_alerts_updated", "updated_at"),
    )

    alert_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    """The agent, or else the sidecar or record that it is about."""
    agent_id: Mapped[str | None]
    to_operator: Mapped[bool]
    """Whether it also goes to the operator's channels, not only to those of the agent."""
    since: Mapped[datetime]
    """When the period began: a quarter of an hour, or a day."""
    count: Mapped[int]
    detail: Mapped[dict[str, Any]]
    status: Mapped[str]
    attempts: Mapped[int]
    failures: Mapped[int]
    """Attempts in a row that failed."""
    deliveries: Mapped[dict[str, Any]]
    """For each target: the count that it was told of, and the last error."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime | None]
    """When it is sent next; null: not again."""
    give_up_at: Mapped[datetime]


class WatchedSidecar(Base):
    """A sidecar that has connected and not said goodbye, and when a store last heard it."""

    __tablename__ = "watched_sidecars"
    __table_args__ = (Index("ix_watched_sidecars_heard", "heard_at"),)

    node_id: Mapped[str] = mapped_column(primary_key=True)
    node_name: Mapped[str]
    heard_at: Mapped[datetime]
    silent_since: Mapped[datetime | None]
    """When an alert said that it is silent; null once it is heard again."""
