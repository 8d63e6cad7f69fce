"""Emergency stops, and the agents that each keeps suspended."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "emergency_stops",
        sa.Column("stop_id", sa.Text(), nullable=False),
        sa.Column("selector", DOCUMENT, nullable=False),
        sa.Column("selector_hash", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("released_at", MOMENT, nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("stop_id"),
    )
    op.create_index(
        "uq_emergency_stops_in_force",
        "emergency_stops",
        ["selector_hash"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "emergency_stop_agents",
        sa.Column("stop_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["stop_id"], ["emergency_stops.stop_id"]),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.agent_id"]),
        sa.PrimaryKeyConstraint("stop_id", "agent_id"),
    )
    op.create_index("ix_emergency_stop_agents_agent", "emergency_stop_agents", ["agent_id"], unique=False)


def downgrade() -> None:
    """Drop them; agents that a stop suspended stay suspended."""
    op.drop_table("emergency_stop_agents")
    op.drop_table("emergency_stops")
