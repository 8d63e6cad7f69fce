"""The tables of what sidecars report: decisions, their batches in a chain, outcomes, and usage."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from registry_store.database.columns import Base, JsonOrNull, partial_index

NO_HEAD = "0" * 64
"""The head of a chain without entries."""


def _index_of_given(name: str, column: str) -> Index:
    return partial_index(name, f"{column} IS NOT NULL", column, "decision_id")


USUAL_OUTCOME = "allow"
USUAL_REASONS = ("RISK_BELOW_AUTO_APPROVE", "POLICY_MATCHED")
"""Most decisions have these. No index has them, which saves most of the indexing: a list of them is read by time."""
UNUSUAL_OUTCOME = f"outcome <> '{USUAL_OUTCOME}'"
UNUSUAL_REASON = f"reason <> '{USUAL_REASONS[0]}' AND reason <> '{USUAL_REASONS[1]}'"


class Decision(Base):
    """A decision of a sidecar: what lists filter by, and where its record is; its agent may be unregistered."""

    __tablename__ = "decisions"
    __table_args__ = (
        Index("ix_decisions_agent", "agent_id", "decision_id"),
        partial_index("ix_decisions_agent_outcome", UNUSUAL_OUTCOME, "agent_id", "outcome", "decision_id"),
        partial_index("ix_decisions_outcome", UNUSUAL_OUTCOME, "outcome", "decision_id"),
        partial_index("ix_decisions_reason", UNUSUAL_REASON, "reason", "decision_id"),
        partial_index("ix_decisions_agent_reason", UNUSUAL_REASON, "agent_id", "reason", "decision_id"),
        _index_of_given("ix_decisions_policy", "policy_id"),
        _index_of_given("ix_decisions_tool", "tool"),
        _index_of_given("ix_decisions_shadow_allow", "shadow_allow"),
        _index_of_given("ix_decisions_shadow_require_approval", "shadow_require_approval"),
        _index_of_given("ix_decisions_shadow_block", "shadow_block"),
        _index_of_given("ix_decisions_shadow_escalate", "shadow_escalate"),
        Index("ix_decisions_batch", "batch_id"),
        partial_index("ix_decisions_received", "received_at IS NOT NULL", "received_at"),
    )

    decision_id: Mapped[str] = mapped_column(primary_key=True)
    repeat_of: Mapped[str | None]
    """The earlier decision whose answer was repeated, with the same idempotency key."""
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
    batch_id: Mapped[int | None]
    """The batch that has its record; null for a decision from before batches were kept."""
    position: Mapped[int | None] = mapped_column(Integer())
    """Place of its record in the batch, from 0 on."""
    node_id: Mapped[str | None]
    """The sidecar of a decision without a batch; null for others, and so are the next three columns."""
    sequence: Mapped[int | None]
    received_at: Mapped[datetime | None]
    document: Mapped[dict[str, Any] | None] = mapped_column(JsonOrNull)


class DecisionBatch(Base):
    """A batch of a sidecar's decision log as it was received, in the store's own chain of this sidecar's batches."""

    __tablename__ = "decision_batches"
    __table_args__ = (
        Index("uq_decision_batches_number", "node_id", "number", unique=True),
        Index("ix_decision_batches_last", "node_id", "last_sequence"),
        Index("ix_decision_batches_received", "received_at"),
    )

    batch_id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False
    )
    node_id: Mapped[str]
    number: Mapped[int]
    """From 1 on, without gaps: the batches of this sidecar in the order in which the store received them."""
    first_sequence: Mapped[int]
    last_sequence: Mapped[int]
    is_converted: Mapped[bool]
    """True: the store made it of records of a sidecar from before there were batches; its hash is that of the last."""
    previous_hash: Mapped[bytes]
    hash: Mapped[bytes]
    content: Mapped[bytes]
    """A `pdp.v1.LogBatch`, compressed by zlib."""
    omitted: Mapped[str]
    """Sequences of records that are not kept as rows, separated by commas: refused, or kept with an earlier batch."""
    received_at: Mapped[datetime]
    """Never before that of the sidecar's batch before it."""
    head: Mapped[bytes]
    """SHA-256 of all of this and of the head before it; see `registry_store.decisions.chain`."""


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
    """Batches, or records from before there were batches, that do not follow from the one before."""
    updated_at: Mapped[datetime]
    """When it last reported."""
    batches: Mapped[int] = mapped_column(server_default="0", default=0)
    """Number of its last batch."""
    head: Mapped[str] = mapped_column(server_default=NO_HEAD, default=NO_HEAD)
    """The head of its last batch, in hex."""
    deleted_batches: Mapped[int] = mapped_column(server_default="0", default=0)
    """Number of the last batch that retention deleted; 0: none."""
    deleted_head: Mapped[str] = mapped_column(server_default=NO_HEAD, default=NO_HEAD)
    deleted_records: Mapped[int] = mapped_column(server_default="0", default=0)
    """Number of records in the batches that retention deleted."""
    deleted_first: Mapped[int] = mapped_column(server_default="0", default=0)
    """First sequence that retention deleted; 0: none."""
    deleted_last: Mapped[int] = mapped_column(server_default="0", default=0)
    """Last sequence of the last batch that retention deleted."""
    deleted_received_at: Mapped[datetime | None]
    """When the last batch that retention deleted was received."""


class Outcome(Base):
    """How an allowed action ended, as its sidecar reported it."""

    __tablename__ = "outcomes"
    __table_args__ = (
        Index("ix_outcomes_agent", "agent_id", "reported_at"),
        Index("ix_outcomes_received", "received_at"),
        partial_index("ix_outcomes_approval", "approval_id IS NOT NULL", "approval_id"),
        Index("ix_outcomes_batch", "batch_id"),
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
    batch_id: Mapped[int | None]
    """The batch that has its record; null for an outcome from before batches were kept."""


class Usage(Base):
    """The decisions and cost of an agent in one minute, by outcome; without dry runs."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_minute", "minute"),)

    agent_id: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    decisions: Mapped[int]
    cost_micros: Mapped[int]
