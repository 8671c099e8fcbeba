"""Each call of a provider is booked as what it was; providers' bills and alerts have tables."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    for name in ("provider", "upstream", "cache"):
        op.add_column("transactions", text(name))
    for name in ("estimated", "compute_us", "kv_byte_s", "calls"):
        op.add_column("transactions", number(name))
    op.create_table(
        "legs",
        sa.Column("transaction_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        text("provider"),
        text("upstream"),
        text("outcome"),
        number("estimated"),
        number("prompt_tokens"),
        number("cached_tokens"),
        number("cache_write_tokens"),
        number("completion_tokens"),
        number("reasoning_tokens"),
        number("compute_us"),
        number("kv_byte_s"),
        number("cost_nanousd"),
    )
    op.create_table(
        "bills",
        sa.Column("id", sa.Text, primary_key=True),
        text("provider"),
        text("upstream"),
        number("day"),
        text("request"),
        number("prompt_tokens"),
        number("cached_tokens"),
        number("cache_write_tokens"),
        number("completion_tokens"),
        number("cost_nanousd"),
        sa.Column("priced", sa.Boolean, nullable=False),
        number("variance_nanousd"),
        number("at_s"),
    )
    op.create_table(
        "alerts",
        sa.Column(
            "limit_id", _ID, sa.ForeignKey("limits.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("starts_s", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("rule", sa.Text, primary_key=True),
        number("at_s"),
    )
