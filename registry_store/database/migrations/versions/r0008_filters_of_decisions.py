"""What decisions can be asked for: a reason, a policy, a tool, a shadow verdict; and entries of the log on a record."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

MAX_CHARACTERS = 256
TEXTS = {
    "reason": ("answer", "reason"),
    "policy_id": ("answer", "policy", "id"),
    "tool": ("action", "tool"),
}
OUTCOMES = ("allow", "require_approval", "block", "escalate")
PARTIAL_INDEXES = {
    "ix_decisions_policy": "policy_id",
    "ix_decisions_tool": "tool",
    **{f"ix_decisions_shadow_{outcome}": f"shadow_{outcome}" for outcome in OUTCOMES},
}
ACTIVITY_INDEXES = {
    "ix_activity_subject_kind": ["subject_kind", "sequence"],
    "ix_activity_subject_id": ["subject_id", "sequence"],
}


def upgrade() -> None:
    """Add the columns, fill them from the documents, and create the indexes."""
    for name in TEXTS:
        op.add_column("decisions", sa.Column(name, sa.Text(), nullable=True))
    for outcome in OUTCOMES:
        op.add_column("decisions", sa.Column(f"shadow_{outcome}", sa.BigInteger(), nullable=True))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    text, verdicts = (_sqlite_text, _SQLITE_VERDICTS) if is_sqlite else (_postgresql_text, _POSTGRESQL_VERDICTS)
    values = [f"{name} = {text(path)}" for name, path in TEXTS.items()]
    for outcome in OUTCOMES:
        had = f"EXISTS (SELECT 1 FROM {verdicts} WHERE outcome = '{outcome}')"  # noqa: S608 - no value of a caller
        values.append(f"shadow_{outcome} = CASE WHEN {had} THEN 1 END")
    op.get_bind().exec_driver_sql(f"UPDATE decisions SET {', '.join(values)}")  # noqa: S608
    op.create_index("ix_decisions_reason", "decisions", ["reason", "decision_id"])
    op.create_index("ix_decisions_agent_reason", "decisions", ["agent_id", "reason", "decision_id"])
    for name, column in PARTIAL_INDEXES.items():
        given = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "decisions", [column, "decision_id"], sqlite_where=given, postgresql_where=given)
    for name, columns in ACTIVITY_INDEXES.items():
        op.create_index(name, "activity", columns)


def downgrade() -> None:
    """Drop them; the documents have all of it."""
    for name in ACTIVITY_INDEXES:
        op.drop_index(name, "activity")
    for name in ("ix_decisions_reason", "ix_decisions_agent_reason", *PARTIAL_INDEXES):
        op.drop_index(name, "decisions")
    for name in (*TEXTS, *(f"shadow_{outcome}" for outcome in OUTCOMES)):
        op.drop_column("decisions", name)


def _sqlite_text(path: tuple[str, ...]) -> str:
    at = f"document, '$.{'.'.join(path)}'"
    return (
        f"CASE WHEN json_type({at}) = 'text' AND length(json_extract({at})) BETWEEN 1 AND {MAX_CHARACTERS}"
        f" THEN json_extract({at}) END"
    )


def _postgresql_text(path: tuple[str, ...]) -> str:
    at = f"'{{{','.join(path)}}}'"
    return (
        f"CASE WHEN jsonb_typeof(document #> {at}) = 'string'"
        f" AND length(document #>> {at}) BETWEEN 1 AND {MAX_CHARACTERS} THEN document #>> {at} END"
    )


_SQLITE_VERDICTS = (
    "(SELECT CASE type WHEN 'object' THEN json_extract(value, '$.outcome') END AS outcome"
    " FROM json_each(document, '$.answer.shadow') WHERE json_type(document, '$.answer.shadow') = 'array') verdicts"
)
_POSTGRESQL_VERDICTS = (
    "(SELECT verdict ->> 'outcome' AS outcome FROM jsonb_array_elements(CASE"
    " jsonb_typeof(document #> '{answer,shadow}') WHEN 'array' THEN document #> '{answer,shadow}' ELSE '[]' END)"
    " verdict) verdicts"
)
