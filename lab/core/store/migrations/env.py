"""Alembic's entry: runs the migrations over the connection that the store passes in."""

from alembic import context

from lab.core.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
context.run_migrations()
