"""`headrace audit`: who changed what, when; straight from the store."""

import time
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli import stored
from headrace.cli.report import console, emit_json
from headrace.cli.stored import run, when
from headrace.store.audit import MOST, Wanted, entries


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
    table = Table("when (UTC)", "who", "by", "did", "to", "team", "detail")
    for entry in found:
        detail = ", ".join(f"{name} {value}" for name, value in entry.detail.items() if value)
        table.add_row(
            when(entry.at_s),
            entry.actor,
            entry.via,
            entry.action,
            entry.subject,
            entry.team or entry.org,
            detail,
        )
    console().print(table)
