"""What lists of agents need at any size: tags that know their agent's status and type, and how many agents there are.

Triggers keep both, so that no way of writing can forget them. Revision 0009 drops the triggers.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = {"agents": "''", "agent_tags": "tag"}
"""Which tag a row counts under."""
EVENTS = ("INSERT", "UPDATE", "DELETE")
ADDED = "ON CONFLICT (status, agent_type, tag) DO UPDATE SET agents = agent_counts.agents + excluded.agents"


def upgrade() -> None:
    """Add the columns, fill them, count, and keep counting."""
    op.add_column("agent_tags", sa.Column("status", sa.Text(), nullable=False, server_default=""))
    op.add_column("agent_tags", sa.Column("agent_type", sa.Text(), nullable=False, server_default=""))
    op.execute(
        "UPDATE agent_tags SET"
        " status = (SELECT status FROM agents WHERE agents.agent_id = agent_tags.agent_id),"
        " agent_type = (SELECT agent_type FROM agents WHERE agents.agent_id = agent_tags.agent_id)"
    )
    op.create_index("ix_agents_status_type", "agents", ["status", "agent_type", "agent_id"])
    op.create_index("ix_agent_tags_status", "agent_tags", ["tag", "status", "agent_id"])
    op.create_index("ix_agent_tags_type", "agent_tags", ["tag", "agent_type", "agent_id"])
    op.create_index("ix_agent_tags_status_type", "agent_tags", ["tag", "status", "agent_type", "agent_id"])
    count()


def downgrade() -> None:
    """Drop all of it."""
    stop_counting()
    for name in ("ix_agent_tags_status_type", "ix_agent_tags_type", "ix_agent_tags_status"):
        op.drop_index(name, "agent_tags")
    op.drop_index("ix_agents_status_type", "agents")
    op.drop_column("agent_tags", "agent_type")
    op.drop_column("agent_tags", "status")


def count() -> None:
    """Count the agents, and create the triggers that keep the counts and the copies in the tags."""
    op.create_table(
        "agent_counts",
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("agent_type", sa.Text(), nullable=False),
        sa.Column("agents", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tag", "status", "agent_type"),
    )
    op.execute(
        "INSERT INTO agent_counts (status, agent_type, tag, agents)"
        " SELECT status, agent_type, '', count(*) FROM agents GROUP BY status, agent_type"
        " UNION ALL SELECT status, agent_type, tag, count(*) FROM agent_tags GROUP BY status, agent_type, tag"
    )
    create = _create_in_sqlite if op.get_bind().dialect.name == "sqlite" else _create_in_postgresql
    for table, tag in TABLES.items():
        for event in EVENTS:
            create(table, tag, event)


def stop_counting() -> None:
    """Drop the triggers and the counts."""
    for table in TABLES:
        for event in EVENTS:
            name = f"count_{table}_{event.lower()}"
            if op.get_bind().dialect.name == "sqlite":
                op.execute(f"DROP TRIGGER {name}")
            else:
                op.execute(f"DROP TRIGGER {name} ON {table}")
                op.execute(f"DROP FUNCTION {name}()")
    op.drop_table("agent_counts")


def _create_in_sqlite(table: str, tag: str, event: str) -> None:
    """A trigger that counts each row, where it changes what is counted."""
    work = [_row(row, tag, change) for row, change in (("OLD", -1), ("NEW", 1)) if _has(event, row)]
    when = ""
    if event == "UPDATE":
        when = "WHEN (OLD.status <> NEW.status OR OLD.agent_type <> NEW.agent_type)"
        if table == "agents":
            values = "status = NEW.status, agent_type = NEW.agent_type"
            work.append(f"UPDATE agent_tags SET {values} WHERE agent_id = NEW.agent_id;")  # noqa: S608 - of constants
    name = f"count_{table}_{event.lower()}"
    op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {when} BEGIN {' '.join(work)} END")


def _row(row: str, tag: str, change: int) -> str:
    values = f"{row}.status, {row}.agent_type, {tag if tag == TABLES['agents'] else f'{row}.{tag}'}, {change}"
    return f"INSERT INTO agent_counts (status, agent_type, tag, agents) VALUES ({values}) {ADDED};"  # noqa: S608 - of constants


def _create_in_postgresql(table: str, tag: str, event: str) -> None:
    """A trigger that counts the rows of a whole statement: one that counted each row of many would be quadratic."""
    name = f"count_{table}_{event.lower()}"
    parts = [
        f"SELECT status, agent_type, {tag} AS tag, {change} AS number FROM {rows}"  # noqa: S608 - of constants
        for row, rows, change in (("OLD", "gone", -1), ("NEW", "come", 1))
        if _has(event, row)
    ]
    work = (
        "INSERT INTO agent_counts (status, agent_type, tag, agents)"  # noqa: S608 - of constants
        f" SELECT status, agent_type, tag, sum(number) FROM ({' UNION ALL '.join(parts)}) AS moved"
        f" GROUP BY status, agent_type, tag HAVING sum(number) <> 0 {ADDED};"
    )
    if (table, event) == ("agents", "UPDATE"):
        work += (
            " UPDATE agent_tags SET status = come.status, agent_type = come.agent_type"
            " FROM come JOIN gone ON gone.agent_id = come.agent_id"
            " WHERE agent_tags.agent_id = come.agent_id"
            " AND (come.status <> gone.status OR come.agent_type <> gone.agent_type);"
        )
    seen = " ".join(f"{row} TABLE AS {rows}" for row, rows in (("OLD", "gone"), ("NEW", "come")) if _has(event, row))
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {work} RETURN NULL; END $$")
    op.execute(
        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {seen}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    )


def _has(event: str, row: str) -> bool:
    return event in {"OLD": ("UPDATE", "DELETE"), "NEW": ("INSERT", "UPDATE")}[row]
