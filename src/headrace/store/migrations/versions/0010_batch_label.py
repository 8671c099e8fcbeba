"""Which batch a request was a line of."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("transactions", sa.Column("batch", sa.Text, nullable=False, server_default=""))
