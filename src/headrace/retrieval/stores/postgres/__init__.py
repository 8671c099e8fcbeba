"""An index in PostgreSQL with pgvector: for many processes, machines and replicas at once."""

from headrace.retrieval.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
