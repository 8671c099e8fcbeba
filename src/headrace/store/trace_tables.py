"""The tables of traces: what became of each request, what was said, and whose is kept how long."""

from sqlalchemy import BigInteger, Column, Index, Table, Text

from headrace.store.tables import metadata


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


traces = Table(
    "traces",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _text("feature"),
    _text("end_user"),
    _number("created_s"),
    _text("model"),
    _text("route"),
    _number("status"),
    _text("finish"),
    _text("trace_id"),
    _number("duration_us"),
    _number("prompt_tokens"),
    _number("completion_tokens"),
    _number("cost_nanousd"),
    _text("body"),
    Index("traces_by_time", "created_s"),
    Index("traces_by_team", "team", "created_s"),
    Index("traces_by_end_user", "end_user"),
)
"""`body`: JSON, as `headrace.gateway.trace_body` writes it."""

trace_contents = Table(
    "trace_contents",
    metadata,
    Column("id", Text, primary_key=True),
    _text("org"),
    _text("team"),
    _text("key"),
    _number("created_s"),
    _text("prompt"),
    _text("answer"),
)
"""Of sampled requests, redacted."""

trace_policies = Table(
    "trace_policies",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("content_ppm", BigInteger, nullable=True),
    Column("retention_days", BigInteger, nullable=True),
)
"""What an organization or a team wants other than the settings; null = as above it."""
