"""What was said of sources that an index is too far behind."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    names = ("org", "team", "name", "source")
    op.create_table(
        "source_alerts",
        *(sa.Column(name, sa.Text, primary_key=True) for name in names),
        sa.Column("complete_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_s", sa.BigInteger, nullable=False, server_default="0"),
    )
