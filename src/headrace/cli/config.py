"""`headrace config check|show`: whether settings hold, and where each came from."""

from typing import Annotated

import typer

from headrace import app
from headrace.cli.report import emit_json, settings, settings_file
from headrace.cli.sheet import show_rows
from headrace.config import as_dict, is_live

config = typer.Typer(no_args_is_help=True, help="Settings: whether they hold, where they are from.")


@config.callback()
def group() -> None:
    """Settings: whether they hold, where they are from."""


@config.command()
def check(ctx: typer.Context) -> None:
    """Read everything as `headrace serve` would, start nothing; exit 2 where something is wrong."""
    served = app.check(settings(ctx))
    file = settings_file(ctx)
    where = str(file) if file.is_file() else f"no {file.name} here"
    typer.echo(f"{where}: the settings hold; served would be {', '.join(served) or 'nothing'}")


@config.command()
def show(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those with their default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Each setting, its value, where it is from, and whether a running service takes a change."""
    chosen = settings(ctx)
    rows = {
        key: {
            "value": value,
            "origin": chosen.origins.get(key, "default"),
            "live": is_live(key),
        }
        for key, value in as_dict(chosen).items()
        if every or key in chosen.origins
    }
    if as_json:
        emit_json(rows)
        return
    if not rows:
        typer.echo("every setting has its default; --all shows them")
        return
    show_rows(
        ("setting", "value", "from", "changes"),
        [
            (
                key,
                repr(row["value"]),
                str(row["origin"]),
                "while it runs" if row["live"] else "at a restart",
            )
            for key, row in rows.items()
        ],
        whole=("setting",),
    )
