"""Lists of agents without triggers: `count(*)` counts, and a foreign key keeps a tag's copies of status and type."""

from alembic import op

from registry_store.database.migrations.versions.r0003_lists_of_agents import count, stop_counting

revision = "0009"
down_revision = "0008"

OLD_KEY = "agent_tags_agent_id_fkey"
KEY = "fk_agent_tags_agent"
INDEX = "ix_agents_status_type"
COLUMNS = ["status", "agent_type", "agent_id"]


def upgrade() -> None:
    """Drop the triggers and the counts; the foreign key of a tag covers its copies, and follows the agent."""
    stop_counting()
    op.drop_index(INDEX, "agents")
    op.create_index(INDEX, "agents", COLUMNS, unique=True)
    # SQLite's key has no name; PostgreSQL gave it this one.
    with op.batch_alter_table("agent_tags", naming_convention={"fk": OLD_KEY}) as tags:
        tags.drop_constraint(OLD_KEY, type_="foreignkey")
        tags.create_foreign_key(KEY, "agents", COLUMNS, COLUMNS, onupdate="CASCADE")


def downgrade() -> None:
    """Count what is there, and keep counting by triggers."""
    with op.batch_alter_table("agent_tags") as tags:
        tags.drop_constraint(KEY, type_="foreignkey")
        tags.create_foreign_key(OLD_KEY, "agents", ["agent_id"], ["agent_id"])
    op.drop_index(INDEX, "agents")
    op.create_index(INDEX, "agents", COLUMNS)
    count()
