"""Batches of decision logs in a chain of the store's own; decisions find their records there, with fewer indexes."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

MOMENT = sa.DateTime(timezone=True)
NO_HEAD = "0" * 64
OPTIONAL: dict[str, Any] = {
    "node_id": sa.Text(),
    "sequence": sa.BigInteger(),
    "received_at": MOMENT,
    "document": sa.JSON(),
}
UNUSUAL_OUTCOME = "outcome <> 'allow'"
UNUSUAL_REASON = "reason <> 'RISK_BELOW_AUTO_APPROVE' AND reason <> 'POLICY_MATCHED'"
PARTIAL = {
    "ix_decisions_agent_outcome": (["agent_id", "outcome", "decision_id"], UNUSUAL_OUTCOME),
    "ix_decisions_outcome": (["outcome", "decision_id"], UNUSUAL_OUTCOME),
    "ix_decisions_reason": (["reason", "decision_id"], UNUSUAL_REASON),
    "ix_decisions_agent_reason": (["agent_id", "reason", "decision_id"], UNUSUAL_REASON),
    "ix_decisions_received": (["received_at"], "received_at IS NOT NULL"),
}
"""The indexes that no longer have every decision, with the condition of those that they have."""
COUNTS = ("batches", "deleted_batches", "deleted_records", "deleted_first", "deleted_last")
HEADS = ("head", "deleted_head")
BATCH_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite keeps the rows in the order of a key of this type."""
BATCH_IDS = sa.Sequence("decision_batch_ids")


def upgrade() -> None:
    """Create the table of batches, empty; decisions from before keep their documents."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "decision_batches",
        sa.Column("batch_id", BATCH_ID, primary_key=True, autoincrement=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("is_converted", sa.Boolean(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("omitted", sa.Text(), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
    )
    op.create_index("uq_decision_batches_number", "decision_batches", ["node_id", "number"], unique=True)
    op.create_index("ix_decision_batches_last", "decision_batches", ["node_id", "last_sequence"])
    op.create_index("ix_decision_batches_received", "decision_batches", ["received_at"])
    if is_postgresql:
        op.execute(sa.schema.CreateSequence(BATCH_IDS))
        # The store compresses it: the server need not try.
        op.execute("ALTER TABLE decision_batches ALTER COLUMN content SET STORAGE EXTERNAL")
    for name in COUNTS:
        op.add_column("decision_logs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    for name in HEADS:
        op.add_column("decision_logs", sa.Column(name, sa.Text(), nullable=False, server_default=NO_HEAD))
    op.add_column("decision_logs", sa.Column("deleted_received_at", MOMENT, nullable=True))
    op.add_column("outcomes", sa.Column("batch_id", sa.BigInteger(), nullable=True))
    op.create_index("ix_outcomes_batch", "outcomes", ["batch_id"])
    for name in PARTIAL:
        op.drop_index(name, "decisions")
    with op.batch_alter_table("decisions") as decisions:
        decisions.add_column(sa.Column("batch_id", sa.BigInteger(), nullable=True))
        decisions.add_column(sa.Column("position", sa.Integer(), nullable=True))
        for name, kind in OPTIONAL.items():
            decisions.alter_column(name, existing_type=kind, nullable=True)
    for name, (columns, condition) in PARTIAL.items():
        where = sa.text(condition)
        op.create_index(name, "decisions", columns, sqlite_where=where, postgresql_where=where)
    op.create_index("ix_decisions_batch", "decisions", ["batch_id"])


def downgrade() -> None:
    """Drop the batches, with the decisions and outcomes in them: the older schema has no place for their records."""
    op.execute("DELETE FROM decisions WHERE batch_id IS NOT NULL")
    op.execute("DELETE FROM outcomes WHERE batch_id IS NOT NULL")
    op.drop_index("ix_decisions_batch", "decisions")
    for name in PARTIAL:
        op.drop_index(name, "decisions")
    with op.batch_alter_table("decisions") as decisions:
        for name, kind in OPTIONAL.items():
            decisions.alter_column(name, existing_type=kind, nullable=False)
        decisions.drop_column("position")
        decisions.drop_column("batch_id")
    for name, (columns, _) in PARTIAL.items():
        op.create_index(name, "decisions", columns)
    op.drop_index("ix_outcomes_batch", "outcomes")
    op.drop_column("outcomes", "batch_id")
    for name in (*COUNTS, *HEADS, "deleted_received_at"):
        op.drop_column("decision_logs", name)
    op.drop_table("decision_batches")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.DropSequence(BATCH_IDS))
