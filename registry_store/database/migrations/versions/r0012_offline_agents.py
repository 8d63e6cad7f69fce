"""Agents that are suspended when no sidecar serves them, and when each sidecar was last connected."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"

MOMENT = sa.DateTime(timezone=True)
INDEX = "ix_agents_offline"


def upgrade() -> None:
    """Add the columns and fill them from the configurations; no sidecar was seen yet."""
    op.add_column("agents", sa.Column("offline_minutes", sa.BigInteger(), nullable=True))
    op.add_column("agents", sa.Column("activated_at", MOMENT, nullable=True))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    minutes, enabled = (_sqlite if is_sqlite else _postgresql)(
        "auto_suspend_on_offline_minutes", "auto_suspend_enabled"
    )
    op.execute(f"UPDATE agents SET offline_minutes = {minutes} WHERE {enabled}")  # noqa: S608 - no value of a caller
    watched = sa.text("offline_minutes IS NOT NULL")
    op.create_index(INDEX, "agents", ["agent_id"], sqlite_where=watched, postgresql_where=watched)
    op.create_table(
        "sidecar_presence",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("agent_ids", sa.JSON(none_as_null=True).with_variant(_JSONB, "postgresql"), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True).with_variant(_JSONB, "postgresql"), nullable=True),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("heard_at", MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Drop them; the configurations have the minutes."""
    op.drop_table("sidecar_presence")
    op.drop_index(INDEX, "agents")
    op.drop_column("agents", "activated_at")
    op.drop_column("agents", "offline_minutes")


def _sqlite(minutes: str, enabled: str) -> tuple[str, str]:
    return f"json_extract(configuration, '$.{minutes}')", f"json_extract(configuration, '$.{enabled}')"


def _postgresql(minutes: str, enabled: str) -> tuple[str, str]:
    return f"CAST(configuration->>'{minutes}' AS bigint)", f"(configuration->>'{enabled}')::boolean"


_JSONB = JSONB(none_as_null=True)
