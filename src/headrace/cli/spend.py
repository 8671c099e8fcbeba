"""`headrace spend show|forecast|price|prices`: what was spent, will be, and what tokens cost."""

import csv
import datetime
import sys
import time
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cli.report import emit_json
from headrace.cli.sheet import show_rows
from headrace.cli.stored import dollars, instant, note, run, when
from headrace.errors import UserError
from headrace.gateway import focus
from headrace.gateway.prices import Override, nanousd, overrides, remove_overrides, set_override
from headrace.gateway.slices import shown
from headrace.store.forecast import Forecast, forecasts
from headrace.store.spend import Line
from headrace.store.spend import spend as lines_of

spend = typer.Typer(no_args_is_help=True, help="What was spent, and what tokens cost.")


@spend.callback()
def group() -> None:
    """What was spent, and what tokens cost."""


@spend.command()
def show(
    ctx: typer.Context,
    by: Annotated[
        str, typer.Option(help="Comma-separated: org, team, user, key, feature, model, day, ...")
    ] = "team,model",
    since: Annotated[str | None, typer.Option(help="A date, or 30d for the last 30 days.")] = None,
    until: Annotated[str | None, typer.Option(help="A date.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of text.")] = False,
    format: Annotated[
        str, typer.Option(help="focus = CSV in FOCUS columns, by day, team, feature and model.")
    ] = "",
) -> None:
    """Requests, tokens and money."""
    now_s = int(time.time())
    names = by.split(",")
    if format not in ("", "focus"):
        raise UserError(f"--format {format!r}: there is focus; else --json or --csv")
    since_s = 0
    if since is not None:
        at = instant(since, now_s=now_s)
        since_s = at if at <= now_s else 2 * now_s - at  # "30d" is meant backwards here
    until_s = 1 << 52 if until is None else instant(until, now_s=now_s)
    if format == "focus":
        charged = run(ctx, lambda c: focus.charges(c, since_s=since_s, until_s=until_s))
        sys.stdout.write(focus.as_csv(charged))
        return
    found = run(ctx, lambda c: lines_of(c, by=names, since_s=since_s, until_s=until_s))
    rows = [_row(names, line) for line in found]
    if as_json:
        emit_json(rows)
        return
    columns = [*names, *Line._fields[1:]]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    show_rows(
        (*names, "requests", "prompt", "cached", "completion", "cost"),
        [
            (*(str(row[name]) for name in columns[:-1]), dollars(int(row[columns[-1]])))
            for row in rows
        ],
        whole=("key",),
    )


@spend.command()
def forecast(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """When each limit will be used up at its window's pace so far."""
    found = run(ctx, lambda c: forecasts(c, now_s=time.time()))
    if as_json:
        emit_json([{**item._asdict(), "limit": asdict(item.limit)} for item in found])
        return
    show_rows(
        ("who", "window", "limit", "spent", "a day", "at its end", "used up"),
        [_forecast(item) for item in found],
    )


@spend.command()
def price(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="PROVIDER/ITS NAME OF IT, or a local model's name.")],
    input: Annotated[str, typer.Option(help="Dollars a million prompt tokens.")],
    output: Annotated[str, typer.Option(help="Dollars a million tokens of answer.")],
    cached: Annotated[
        str | None, typer.Option(help="Dollars a million cached prompt tokens; else as input.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="From when on; else now.")] = None,
) -> None:
    """Set what a model's tokens cost from a moment on."""
    now_s = int(time.time())
    made = Override(
        model,
        now_s if start is None else instant(start, now_s=now_s),
        _rate(input),
        _rate(input if cached is None else cached),
        _rate(output),
    )

    async def work(connection: AsyncConnection) -> None:
        await set_override(connection, made)
        await note(connection, "price.set", model, detail=made._asdict())

    run(ctx, work)
    typer.echo(f"{model} from {when(made.effective_s)}: {input} in, {output} out a million tokens")


@spend.command()
def prices(
    ctx: typer.Context,
    remove: Annotated[str | None, typer.Option(help="Remove this model's overrides first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """List the prices that were set."""
    if remove is not None:
        model = remove

        async def work(connection: AsyncConnection) -> None:
            await remove_overrides(connection, model)
            await note(connection, "price.remove", model)

        run(ctx, work)
    found = run(ctx, overrides)
    if as_json:
        emit_json([item._asdict() for item in found])
        return
    show_rows(
        ("model", "from", "input", "cached", "output"),
        [
            (
                item.model,
                when(item.effective_s),
                dollars(item.input_nanousd),
                dollars(item.cached_nanousd),
                dollars(item.output_nanousd),
            )
            for item in found
        ],
        title="a million tokens",
    )


def _forecast(item: Forecast) -> tuple[str, ...]:
    unit = item.limit.unit
    return (
        f"{item.limit.scope}:{item.limit.subject}",
        item.limit.window,
        shown(unit, item.limit.amount),
        shown(unit, item.spent),
        "too early" if item.pace_per_day is None else shown(unit, item.pace_per_day),
        "" if item.at_end is None else shown(unit, item.at_end),
        "" if item.used_up_s is None else when(item.used_up_s),
    )


def _row(names: list[str], line: Line) -> dict[str, str | int]:
    row: dict[str, str | int] = {}
    for name, value in zip(names, line.group, strict=True):
        row[name] = _day(value) if name == "day" else value
    for name, count in zip(Line._fields[1:], line[1:], strict=True):
        row[name] = int(str(count))
    return row


def _day(number: str) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(number))).isoformat()


def _rate(text: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise UserError(f"{text!r} is not a number of dollars") from None
    if not value.is_finite() or value < 0:
        raise UserError(f"{text!r} is not a price: it is 0 or more dollars a million tokens")
    return nanousd(value)
