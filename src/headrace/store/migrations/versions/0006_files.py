"""Files, and batches of requests with their lines."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _moment(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=True)


_OWNER = ("org", "team", "key")
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        *map(_text, _OWNER),
        _number("created_s"),
        _text("purpose"),
        _text("filename"),
        _number("size_bytes"),
        _moment("expires_s"),
    )
    op.create_index("files_by_team", "files", ["org", "team", "created_s"])
    op.create_table(
        "file_chunks",
        sa.Column("file", sa.Text, primary_key=True),
        sa.Column("at", sa.Integer, primary_key=True),
        _number("created_s"),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        *map(_text, (*_OWNER, "feature")),
        _number("created_s"),
        *map(_text, ("endpoint", "input_file", "metadata")),
        _moment("output_ttl_s"),
        *map(_text, ("state", "outcome", "errors", "model", "output_file", "error_file")),
        *map(_number, ("total", "completed", "failed", *_TOKENS, "expires_s")),
        *map(_moment, ("in_progress_s", "finalizing_s", "completed_s", "failed_s")),
        *map(_moment, ("expired_s", "cancelling_s", "cancelled_s")),
        _text("owner"),
        _number("lease_until_s"),
    )
    op.create_index("batches_by_team", "batches", ["org", "team", "created_s"])
    op.create_index("batches_by_state", "batches", ["state"])
    op.create_table(
        "batch_lines",
        sa.Column(
            "batch", sa.Text, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("line", sa.Integer, primary_key=True),
        *map(_text, _OWNER),
        _number("created_s"),
        _text("custom_id"),
        _number("start"),
        _number("size"),
        _text("state"),
        *map(_number, ("attempt", "failures")),
        _number("not_before_s"),
        _text("owner"),
        _number("lease_until_s"),
        _text("result"),
        *map(_number, _TOKENS),
    )
    op.create_index("batch_lines_by_state", "batch_lines", ["batch", "state", "line"])
