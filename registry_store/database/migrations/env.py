"""How Alembic reaches the database: over the connection that `registry_store.database.migrate` opened."""

from alembic import context

from registry_store.database import decision_tables, tables  # noqa: F401 - they add their tables to `Base`
from registry_store.database.columns import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
