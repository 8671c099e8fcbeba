"""Answers that are kept, so that a client may continue them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.Text, primary_key=True),
        _text("org"),
        _text("team"),
        _text("key"),
        sa.Column("created_s", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("expires_s", sa.BigInteger, nullable=True),
        _text("previous"),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
        _text("input"),
        _text("body"),
    )
    op.create_index("responses_by_team", "responses", ["org", "team", "created_s"])
    op.create_index("responses_by_expiry", "responses", ["expires_s"])
