"""Identity, limits and the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    meta = op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), _number("value"))
    assert meta is not None
    op.bulk_insert(meta, [{"name": "revision", "value": 1}])
    op.create_table("orgs", sa.Column("id", sa.Text, primary_key=True), _number("created_s"))
    op.create_table(
        "teams",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("org", sa.Text, sa.ForeignKey("orgs.id"), nullable=False),
        _number("created_s"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("org", sa.Text, sa.ForeignKey("orgs.id"), nullable=False),
        sa.Column("team", sa.Text, sa.ForeignKey("teams.id"), nullable=False),
        _number("created_s"),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("sha256", sa.Text, nullable=False, unique=True),
        *map(_text, ("prefix", "name")),
        sa.Column("org", sa.Text, sa.ForeignKey("orgs.id"), nullable=False),
        sa.Column("team", sa.Text, sa.ForeignKey("teams.id"), nullable=False),
        sa.Column("user", sa.Text, sa.ForeignKey("users.id"), nullable=True),
        *map(_text, ("role", "models", "routes", "features")),
        _number("created_s"),
        sa.Column("expires_s", sa.BigInteger, nullable=True),
        sa.Column("revoked_s", sa.BigInteger, nullable=True),
        sa.Column("previous_sha256", sa.Text, nullable=True, unique=True),
        sa.Column("previous_until_s", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "limits",
        sa.Column("id", _ID, primary_key=True),
        *map(_text, ("scope", "subject", "unit", "window", "zone")),
        *map(_number, ("amount", "created_s")),
        sa.UniqueConstraint("scope", "subject", "unit", "window"),
        sa.CheckConstraint("amount >= 0"),
    )
    op.create_table(
        "windows",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("limit_id", _ID, sa.ForeignKey("limits.id", ondelete="CASCADE"), nullable=False),
        *map(_number, ("starts_s", "ends_s", "spent", "leased", "lost")),
        sa.UniqueConstraint("limit_id", "starts_s"),
        sa.CheckConstraint("spent >= 0 AND leased >= 0 AND lost >= 0"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        _number("expires_s"),
        _text("state"),
    )
    op.create_table(
        "leases",
        sa.Column("worker", sa.Text, sa.ForeignKey("workers.id"), primary_key=True),
        sa.Column(
            "window_id", _ID, sa.ForeignKey("windows.id", ondelete="CASCADE"), primary_key=True
        ),
        _number("amount"),
        sa.Column("lost", sa.Boolean, nullable=False),
        sa.CheckConstraint("amount >= 0"),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, sa.ForeignKey("workers.id"), nullable=False),
        _text("record"),
    )
    op.create_table(
        "transactions",
        sa.Column("id", sa.Text, primary_key=True),
        _text("kind"),
        _number("at_s"),
        *map(_text, ("org", "team", "user", "key", "feature", "model", "route", "finish")),
        *map(
            _number,
            (
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "reasoning_tokens",
                "cost_nanousd",
                "held_nanousd",
            ),
        ),
        *map(_text, ("price_hash", "charges")),
    )
    op.create_index("transactions_by_time", "transactions", ["at_s"])
    op.create_table(
        "postings",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("transaction_id", sa.Text, nullable=False),
        _text("account"),
        _number("amount_nanousd"),
    )
    op.create_index("postings_by_account", "postings", ["account"])
    op.create_table(
        "prices",
        sa.Column("id", _ID, primary_key=True),
        _text("model"),
        *map(_number, ("effective_s", "input_nanousd", "cached_nanousd", "output_nanousd")),
        sa.UniqueConstraint("model", "effective_s"),
    )
