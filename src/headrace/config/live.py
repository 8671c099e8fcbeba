"""Which settings a running service takes over, and which need a restart."""

from dataclasses import fields, replace

from headrace.config.reading import flat
from headrace.config.settings import Settings

LIVE = (
    "providers",
    "routes",
    "indexes",
    "data_classes",
    "routing",
    "otlp",
    "server.max_body_bytes",
    "traces.rate",
    "traces.content_rate",
    "traces.redact",
    "traces.retention_days",
    "traces.max_content_bytes",
    "traces.max_queued",
    "traces.max_queued_bytes",
)
"""Sections and settings that a running service takes over; the others need a restart."""


def is_live(key: str) -> bool:
    """Whether a running service takes over a change of this dotted key."""
    return key in LIVE or key.partition(".")[0] in LIVE


def frozen_changes(running: Settings, wanted: Settings) -> tuple[str, ...]:
    """Keys whose values differ and that only a restart changes, with both values."""
    before, after = flat(running), flat(wanted)
    return tuple(
        f"{key} = {value!r} (still {before[key]!r})"
        for key, value in after.items()
        if value != before[key] and not is_live(key)
    )


def take_over(running: Settings, wanted: Settings) -> Settings:
    """What a running service becomes: the live settings of `wanted`, all others as they are."""
    made = running
    for section in fields(wanted):
        if section.name in LIVE:
            made = replace(made, **{section.name: getattr(wanted, section.name)})
    for key, value in flat(wanted).items():
        section, _, name = key.partition(".")
        if key in LIVE:
            part = replace(getattr(made, section), **{name: value})
            made = replace(made, **{section: part})
    origins = {key: origin for key, origin in wanted.origins.items() if is_live(key)}
    kept = {key: origin for key, origin in running.origins.items() if not is_live(key)}
    return replace(made, origins={**kept, **origins})
