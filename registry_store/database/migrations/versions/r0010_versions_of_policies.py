"""Versions of policies: the content of each policy becomes its version 1.0.0."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
FIRST = """
    INSERT INTO policy_versions
        (policy_id, minor, agent_id, policy_created_at, version_notes, configuration, created_at, created_by)
    SELECT policy_id, 0, agent_id, created_at, 'In force when policies got versions', body, updated_at,
        coalesce((
            SELECT performed_by FROM activity
            WHERE subject_id = policy_id AND activity_type IN ('policy_added', 'policy_updated', 'policy_rolled_back')
            ORDER BY sequence DESC LIMIT 1
        ), '')
    FROM policies
"""
"""Its time and author are those of the last change, from the activity log."""


def upgrade() -> None:
    """Add the table and the first versions."""
    op.add_column("policies", sa.Column("version", sa.Text(), nullable=False, server_default="1.0.0"))
    op.create_table(
        "policy_versions",
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("minor", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("policy_created_at", MOMENT, nullable=False),
        sa.Column("version_notes", sa.Text(), nullable=False),
        sa.Column("configuration", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.agent_id"]),
        sa.PrimaryKeyConstraint("policy_id", "minor"),
    )
    op.execute(FIRST)


def downgrade() -> None:
    """Drop them: each policy stays as it is, and the activity log keeps what it was before."""
    op.drop_table("policy_versions")
    op.drop_column("policies", "version")
