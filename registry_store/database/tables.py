"""The tables, for both SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, ForeignKey, ForeignKeyConstraint, Index, Text, false, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Written(str):
    """A document of a JSON column that is already serialized: serializing megabytes would block the event loop."""


JsonDocument = JSON().with_variant(JSONB(), "postgresql")
JsonOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Instant(TypeDecorator[datetime]):
    """A time in UTC: timestamptz in PostgreSQL; without a zone in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Instant(),
        dict[str, Any]: JsonDocument,
        list[str]: JsonDocument,
        str: Text(),
        int: BigInteger(),
    }


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
        Index(
            "ix_agents_offline",
            "agent_id",
            sqlite_where=text("offline_minutes IS NOT NULL"),
            postgresql_where=text("offline_minutes IS NOT NULL"),
        ),
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
        Index(
            "uq_policies_agent_name",
            "agent_id",
            "policy_name",
            unique=True,
            sqlite_where=text("agent_id IS NOT NULL"),
            postgresql_where=text("agent_id IS NOT NULL"),
        ),
        Index(
            "uq_policies_organisation_name",
            "policy_name",
            unique=True,
            sqlite_where=text("agent_id IS NULL"),
            postgresql_where=text("agent_id IS NULL"),
        ),
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
        Index(
            "ix_activity_changes",
            "sequence",
            "subject_kind",
            sqlite_where=text("subject_kind <> 'approval'"),
            postgresql_where=text("subject_kind <> 'approval'"),
        ),
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
        Index(
            "uq_emergency_stops_in_force",
            "selector_hash",
            unique=True,
            sqlite_where=text("released_at IS NULL"),
            postgresql_where=text("released_at IS NULL"),
        ),
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
        Index(
            "uq_approvals_pending",
            "agent_id",
            "action_sha256",
            "demand_sha256",
            unique=True,
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
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


def _index_of_given(name: str, column: str) -> Index:
    given = text(f"{column} IS NOT NULL")
    return Index(name, column, "decision_id", sqlite_where=given, postgresql_where=given)


class Decision(Base):
    """A decision of a sidecar; its agent may be unregistered."""

    __tablename__ = "decisions"
    __table_args__ = (
        Index("ix_decisions_agent", "agent_id", "decision_id"),
        Index("ix_decisions_agent_outcome", "agent_id", "outcome", "decision_id"),
        Index("ix_decisions_outcome", "outcome", "decision_id"),
        Index("ix_decisions_reason", "reason", "decision_id"),
        Index("ix_decisions_agent_reason", "agent_id", "reason", "decision_id"),
        _index_of_given("ix_decisions_policy", "policy_id"),
        _index_of_given("ix_decisions_tool", "tool"),
        _index_of_given("ix_decisions_shadow_allow", "shadow_allow"),
        _index_of_given("ix_decisions_shadow_require_approval", "shadow_require_approval"),
        _index_of_given("ix_decisions_shadow_block", "shadow_block"),
        _index_of_given("ix_decisions_shadow_escalate", "shadow_escalate"),
        Index("ix_decisions_received", "received_at"),
    )

    decision_id: Mapped[str] = mapped_column(primary_key=True)
    repeat_of: Mapped[str | None]
    """The earlier decision whose answer was repeated, with the same idempotency key."""
    node_id: Mapped[str]
    sequence: Mapped[int]
    agent_id: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    policy_id: Mapped[str | None]
    """Id of the policy that decided."""
    tool: Mapped[str | None]
    shadow_allow: Mapped[int | None]
    """1 if a shadow policy would have had this outcome, else null and in no index; so are the next three columns."""
    shadow_require_approval: Mapped[int | None]
    shadow_block: Mapped[int | None]
    shadow_escalate: Mapped[int | None]
    dry_run: Mapped[bool]
    decided_at: Mapped[datetime]
    received_at: Mapped[datetime]
    document: Mapped[dict[str, Any]]


class DecisionLog(Base):
    """The owner of a sidecar's node id, how far its decision log was received, and how many records are lost."""

    __tablename__ = "decision_logs"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str | None]
    """The name of the keys that own the node id; null: the next key that uses it becomes the owner."""
    seen_at: Mapped[datetime | None]
    """When it last connected, to the day."""
    sequence: Mapped[int]
    hash: Mapped[str]
    missing: Mapped[int]
    """Records that the sidecar dropped before they were sent."""
    breaks: Mapped[int]
    """Records whose hash does not follow from the record before."""
    updated_at: Mapped[datetime]
    """When it last reported."""


class SidecarPresence(Base):
    """When a sidecar was last heard by any store, and the agents that it served; both lists null: all."""

    __tablename__ = "sidecar_presence"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    agent_ids: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    tags: Mapped[list[str] | None] = mapped_column(JsonOrNull)
    connected: Mapped[bool]
    heard_at: Mapped[datetime]


class Outcome(Base):
    """How an allowed action ended, as its sidecar reported it."""

    __tablename__ = "outcomes"
    __table_args__ = (
        Index("ix_outcomes_agent", "agent_id", "reported_at"),
        Index("ix_outcomes_received", "received_at"),
        Index(
            "ix_outcomes_approval",
            "approval_id",
            sqlite_where=text("approval_id IS NOT NULL"),
            postgresql_where=text("approval_id IS NOT NULL"),
        ),
    )

    decision_id: Mapped[str] = mapped_column(primary_key=True)
    node_id: Mapped[str]
    sequence: Mapped[int]
    agent_id: Mapped[str]
    activations: Mapped[int]
    """How often the agent had been activated then."""
    approval_id: Mapped[str | None]
    """The approval that the action used."""
    result: Mapped[str]
    charged_micros: Mapped[int]
    actual_cost_micros: Mapped[int | None]
    """What the action cost; null: what was charged."""
    error: Mapped[str]
    reported_at: Mapped[datetime]
    received_at: Mapped[datetime]


class Usage(Base):
    """The decisions and cost of an agent in one minute, by outcome; without dry runs."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_minute", "minute"),)

    agent_id: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    decisions: Mapped[int]
    cost_micros: Mapped[int]


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
