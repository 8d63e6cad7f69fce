"""Records of answers that were given once more under an idempotency key."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; no decision there is repeats another."""
    op.add_column("decisions", sa.Column("repeat_of", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it; a repeat is then a decision like any other, in the lists alone."""
    op.drop_column("decisions", "repeat_of")
