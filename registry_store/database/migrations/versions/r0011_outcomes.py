"""Outcomes of actions, and how often each agent was activated: outcomes from before count no more."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the table of outcomes; every agent starts to count its activations."""
    op.create_table(
        "outcomes",
        sa.Column("decision_id", sa.Text(), primary_key=True),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("activations", sa.BigInteger(), nullable=False),
        sa.Column("approval_id", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=False),
        sa.Column("actual_cost_micros", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("reported_at", MOMENT, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
    )
    op.create_index("ix_outcomes_agent", "outcomes", ["agent_id", "reported_at"])
    op.create_index("ix_outcomes_received", "outcomes", ["received_at"])
    given = sa.text("approval_id IS NOT NULL")
    op.create_index("ix_outcomes_approval", "outcomes", ["approval_id"], sqlite_where=given, postgresql_where=given)
    op.add_column("agents", sa.Column("activations", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them; what outcomes settled stays in the usage."""
    op.drop_column("agents", "activations")
    op.drop_table("outcomes")
