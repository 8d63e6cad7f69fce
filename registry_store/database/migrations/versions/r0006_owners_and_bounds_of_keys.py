"""Which key each node id belongs to, and which agents or tags a sidecar's key is bound to."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
KEYS = sa.table("keys", sa.column("agents"), sa.column("tags"), sa.column("revoked_at", MOMENT))


def upgrade() -> None:
    """Add the columns: every key stays unbound, and each node id becomes that of the key that uses it next."""
    op.add_column("keys", sa.Column("agents", DOCUMENT, nullable=True))
    op.add_column("keys", sa.Column("tags", DOCUMENT, nullable=True))
    op.add_column("decision_logs", sa.Column("owner", sa.Text(), nullable=True))
    op.add_column("decision_logs", sa.Column("seen_at", MOMENT, nullable=True))


def downgrade() -> None:
    """Drop them. Keys that are bound are revoked: the program before this one would let them sync every agent."""
    is_bound = sa.or_(KEYS.c.agents.is_not(None), KEYS.c.tags.is_not(None))
    now = sa.literal(datetime.now(UTC), MOMENT)
    op.execute(KEYS.update().where(is_bound, KEYS.c.revoked_at.is_(None)).values(revoked_at=now))
    for table, column in (
        ("decision_logs", "seen_at"),
        ("decision_logs", "owner"),
        ("keys", "tags"),
        ("keys", "agents"),
    ):
        op.drop_column(table, column)
