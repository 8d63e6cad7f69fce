"""Indexes for what the activity log can be asked for: a type, a person, a time."""

from alembic import op

revision = "0004"
down_revision = "0003"

INDEXES = {
    "ix_activity_type": ["activity_type", "sequence"],
    "ix_activity_performed_by": ["performed_by", "sequence"],
    "ix_activity_timestamp": ["timestamp", "sequence"],
}


def upgrade() -> None:
    """Create them."""
    for name, columns in INDEXES.items():
        op.create_index(name, "activity", columns)


def downgrade() -> None:
    """Drop them."""
    for name in INDEXES:
        op.drop_index(name, "activity")
