"""`headrace audit`: who changed what, when; straight from the store."""

import time
from typing import Annotated, cast

import typer

from headrace.cli import stored
from headrace.cli.report import emit_json
from headrace.cli.sheet import show_rows
from headrace.cli.stored import run, when
from headrace.store.audit import MOST, Entry, Wanted, entries

_A_MOMENT_S = 10**9  # longer than any duration: a Unix time


def audit(
    ctx: typer.Context,
    org: Annotated[str | None, typer.Option(help="What is this organization's.")] = None,
    team: Annotated[str | None, typer.Option(help="What is this team's.")] = None,
    actor: Annotated[str, typer.Option(help="By this key or user.")] = "",
    action: Annotated[str, typer.Option(help="As key.revoke; key. means all of keys.")] = "",
    subject: Annotated[str, typer.Option(help="Of this key, user, team or limit.")] = "",
    since: Annotated[str, typer.Option(help="A date, or how long ago: 30d, 12h.")] = "",
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=MOST)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Show who changed keys, people, limits and settings. Nobody can rewrite it."""
    now_s = int(time.time())
    wanted = Wanted(
        org=org,
        team=team,
        actor=actor,
        action=action,
        subject=subject,
        since_s=stored.since(since, now_s=now_s) if since else 0,
        count=limit,
    )
    found = run(ctx, lambda connection: entries(connection, wanted))
    if as_json:
        emit_json([entry._asdict() for entry in found])
        return
    show_rows(
        ("when (UTC)", "who", "by", "did", "to", "team", "detail"),
        [
            (
                when(entry.at_s),
                entry.actor,
                entry.via,
                entry.action,
                entry.subject,
                entry.team or entry.org,
                detail_of(entry),
            )
            for entry in found
        ],
        whole=("to",),
    )


def detail_of(entry: Entry) -> str:
    """What the other columns do not say already, as people write it."""
    said = {entry.subject, entry.org, entry.team, entry.at_s}
    parts: list[str] = []
    for name, value in entry.detail.items():
        if not value or (not isinstance(value, list | dict) and value in said):
            continue
        if isinstance(value, list):
            parts.append(f"{name} {' '.join(map(str, cast('list[object]', value)))}")
        elif name.endswith("_s") and isinstance(value, int) and value > _A_MOMENT_S:
            parts.append(f"{name[:-2]} {when(value)}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)
