"""A key may say what class its requests' data is of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("keys", sa.Column("data_class", sa.Text, nullable=False, server_default=""))
