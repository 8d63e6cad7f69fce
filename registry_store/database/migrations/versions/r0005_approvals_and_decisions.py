"""What sidecars send up: approvals that they ask for, decisions that they made; and whose approvals a key decides."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INDEXES = {
    "ix_approvals_status": ("approvals", ["status", "approval_id"]),
    "ix_approvals_agent": ("approvals", ["agent_id", "status", "approval_id"]),
    "ix_approvals_expiry": ("approvals", ["status", "expires_at"]),
    "ix_decisions_agent": ("decisions", ["agent_id", "decision_id"]),
    "ix_decisions_agent_outcome": ("decisions", ["agent_id", "outcome", "decision_id"]),
    "ix_decisions_outcome": ("decisions", ["outcome", "decision_id"]),
    "ix_decisions_received": ("decisions", ["received_at"]),
    "ix_usage_minute": ("usage", ["minute"]),
}


def upgrade() -> None:
    """Create the tables; no key there is belongs to a group."""
    op.add_column("keys", sa.Column("groups", DOCUMENT, nullable=False, server_default="[]"))
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("policy", DOCUMENT, nullable=True),
        sa.Column("action", DOCUMENT, nullable=False),
        sa.Column("action_sha256", sa.Text(), nullable=False),
        sa.Column("approvers", DOCUMENT, nullable=False),
        sa.Column("team", sa.Text(), nullable=True),
        sa.Column("timeout_seconds", sa.BigInteger(), nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("decided_at", MOMENT, nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.Column("use_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("approval_id"),
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("decision_id"),
    )
    op.create_table(
        "decision_logs",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("breaks", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_table(
        "usage",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("minute", MOMENT, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("decisions", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "minute", "outcome"),
    )
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Drop them, with what they hold."""
    for table in ("usage", "decision_logs", "decisions", "approvals"):
        op.drop_table(table)
    op.drop_column("keys", "groups")
