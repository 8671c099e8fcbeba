"""What quotes which documents of indexes, and which of them are gone."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    document = ("org", "team", "name", "document")
    op.create_table(
        "quotes",
        *(sa.Column(name, sa.Text, primary_key=True) for name in document),
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("answer", sa.Text, primary_key=True),
        sa.Column("batch", sa.Text, nullable=False, server_default=""),
        sa.Column("created_s", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("quotes_by_request", "quotes", ["request"])
    op.create_index("quotes_by_time", "quotes", ["created_s"])
    op.create_table(
        "forgotten",
        *(sa.Column(name, sa.Text, primary_key=True) for name in document),
        sa.Column("at_s", sa.BigInteger, nullable=False, server_default="0"),
    )
