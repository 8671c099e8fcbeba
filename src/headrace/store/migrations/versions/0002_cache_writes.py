"""Tokens that went into a provider's cache, which are billed apart."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "transactions",
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, server_default="0"),
    )
