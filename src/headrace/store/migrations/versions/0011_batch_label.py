"""Which batch a request was a line of."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("transactions", sa.Column("batch", sa.Text, nullable=False, server_default=""))
