"""Kept answers of the cache."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    texts = ("org", "team", "key", "route", "release")
    numbers = ("created_s", "expires_s", "size_bytes")
    op.create_table(
        "answers",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False, server_default="") for name in texts),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in numbers),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("answers_by_end", "answers", ["expires_s"])
    op.create_index("answers_by_team", "answers", ["org", "team", "created_s"])
