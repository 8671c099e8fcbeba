"""Alembic's entry: runs the scripts on the connection that `headrace.store.migrate` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
