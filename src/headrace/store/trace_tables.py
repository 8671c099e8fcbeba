"""The tables of traces: what became of each request, what was said, and whose is kept how long."""

from sqlalchemy import BigInteger, Column, Index, Table, Text

from headrace.store.tables import metadata, number, text

traces = Table(
    "traces",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    text("feature"),
    text("end_user"),
    number("created_s"),
    text("model"),
    text("route"),
    number("status"),
    text("finish"),
    text("trace_id"),
    number("duration_us"),
    number("prompt_tokens"),
    number("completion_tokens"),
    number("cost_nanousd"),
    text("body"),
    Index("traces_by_time", "created_s"),
    Index("traces_by_team", "team", "created_s"),
    Index("traces_by_end_user", "end_user"),
)
"""`body`: JSON, as `headrace.gateway.trace_body` writes it."""

trace_contents = Table(
    "trace_contents",
    metadata,
    Column("id", Text, primary_key=True),
    text("org"),
    text("team"),
    text("key"),
    number("created_s"),
    text("prompt"),
    text("answer"),
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
