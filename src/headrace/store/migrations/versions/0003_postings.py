"""Postings are summed whole, by nobody's account alone: an index of them only slows the booking."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("postings_by_account", "postings")
