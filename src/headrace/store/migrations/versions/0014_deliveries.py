"""Deliveries of webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "deliveries",
        *(
            sa.Column(name, sa.Text, primary_key=True)
            for name in ("org", "team", "name", "source", "id")
        ),
        *(
            sa.Column(name, sa.Text, nullable=False, server_default="")
            for name in ("key", "feature", "items", "state", "why", "owner")
        ),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("at_s", "failures", "not_before_s", "lease_until_s")
        ),
    )
    op.create_index("deliveries_by_state", "deliveries", ["state", "at_s"])
