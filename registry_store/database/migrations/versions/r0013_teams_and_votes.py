"""Who decides on an approval: teams, several people, keys with MFA; and one pending approval for one question.

Approvals that are pending already have no digest of their demand, so nothing is ever merged into them.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
MOMENT = sa.DateTime(timezone=True)
APPROVALS = sa.table(
    "approvals", sa.column("status"), sa.column("min_approvers"), sa.column("expires_at", MOMENT), sa.column("outcome")
)
PENDING = sa.text("status = 'pending'")
CHANGES = sa.text("subject_kind <> 'approval'")


def upgrade() -> None:
    """Add the columns, the ids of merged requests, and the indexes."""
    op.add_column("keys", sa.Column("mfa", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("approvals", sa.Column("next_team", sa.Text(), nullable=True))
    op.add_column("approvals", sa.Column("min_approvers", sa.BigInteger(), nullable=False, server_default="1"))
    op.add_column("approvals", sa.Column("approved_by", DOCUMENT, nullable=False, server_default="[]"))
    op.add_column("approvals", sa.Column("mfa_required", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("approvals", sa.Column("demand_sha256", sa.Text(), nullable=True))
    _fill_mfa_required()
    op.create_index(
        "uq_approvals_pending",
        "approvals",
        ["agent_id", "action_sha256", "demand_sha256"],
        unique=True,
        sqlite_where=PENDING,
        postgresql_where=PENDING,
    )
    op.create_table(
        "approval_aliases",
        sa.Column("alias_id", sa.Text(), nullable=False),
        sa.Column("approval_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["approval_id"], ["approvals.approval_id"]),
        sa.PrimaryKeyConstraint("alias_id"),
    )
    columns = ["sequence", "subject_kind"]
    op.create_index("ix_activity_changes", "activity", columns, sqlite_where=CHANGES, postgresql_where=CHANGES)


def downgrade() -> None:
    """Drop them. What needs two people is overdue from now on: the program before this one would ask for one."""
    needs_more = sa.and_(APPROVALS.c.status == "pending", APPROVALS.c.min_approvers > 1)
    now = sa.literal(datetime.now(UTC), MOMENT)
    op.execute(APPROVALS.update().where(needs_more).values(expires_at=now))
    op.drop_index("ix_activity_changes", "activity")
    op.drop_table("approval_aliases")
    op.drop_index("uq_approvals_pending", "approvals")
    for column in ("demand_sha256", "mfa_required", "approved_by", "min_approvers", "next_team"):
        op.drop_column("approvals", column)
    op.drop_column("keys", "mfa")


def _fill_mfa_required() -> None:
    """Take it from the decision that asked, as far as the store still has it."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    answer = (
        "json_extract(document, '$.answer.mfa_required') = 1"
        if is_sqlite
        else "document #>> '{answer,mfa_required}' = 'true'"
    )
    asked = f"SELECT 1 FROM decisions WHERE decisions.decision_id = approvals.decision_id AND {answer}"  # noqa: S608
    true = "1" if is_sqlite else "true"
    op.get_bind().exec_driver_sql(
        f"UPDATE approvals SET mfa_required = {true} WHERE status = 'pending' AND EXISTS ({asked})"  # noqa: S608
    )
