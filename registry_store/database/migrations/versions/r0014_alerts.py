"""Alerts: the outbox of what people are told; and which sidecars should be heard of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text()),
        sa.Column("to_operator", sa.Boolean(), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("deliveries", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("next_attempt_at", MOMENT),
        sa.Column("give_up_at", MOMENT, nullable=False),
    )
    op.create_index("uq_alerts_period", "alerts", ["subject", "kind", "since"], unique=True)
    op.create_index("ix_alerts_due", "alerts", ["next_attempt_at"])
    op.create_index("ix_alerts_status", "alerts", ["status", "alert_id"])
    op.create_index("ix_alerts_kind", "alerts", ["kind", "alert_id"])
    op.create_index("ix_alerts_agent", "alerts", ["agent_id", "alert_id"])
    op.create_index("ix_alerts_updated", "alerts", ["updated_at"])
    op.create_table(
        "watched_sidecars",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.Column("heard_at", MOMENT, nullable=False),
        sa.Column("silent_since", MOMENT),
    )
    op.create_index("ix_watched_sidecars_heard", "watched_sidecars", ["heard_at"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("watched_sidecars")
    op.drop_table("alerts")
