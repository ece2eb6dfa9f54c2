"""Run by Alembic; the connection comes from `storage.database.migrate`."""

from alembic import context

from storage.database.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
