"""Traces, their content and how long whose is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "traces",
        sa.Column("id", sa.Text, primary_key=True),
        *map(_text, ("org", "team", "key", "feature", "end_user")),
        _number("created_s"),
        *map(_text, ("model", "route")),
        _number("status"),
        *map(_text, ("finish", "trace_id")),
        *map(_number, ("duration_us", "prompt_tokens", "completion_tokens", "cost_nanousd")),
        _text("body"),
    )
    op.create_index("traces_by_time", "traces", ["created_s"])
    op.create_index("traces_by_team", "traces", ["team", "created_s"])
    op.create_index("traces_by_end_user", "traces", ["end_user"])
    op.create_table(
        "trace_contents",
        sa.Column("id", sa.Text, primary_key=True),
        *map(_text, ("org", "team", "key")),
        _number("created_s"),
        *map(_text, ("prompt", "answer")),
    )
    op.create_table(
        "trace_policies",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("content_ppm", sa.BigInteger, nullable=True),
        sa.Column("retention_days", sa.BigInteger, nullable=True),
    )
