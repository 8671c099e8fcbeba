"""`headrace ledger verify|reconcile`: the books, against themselves and providers' bills."""

import time
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.report import emit_json, settings
from headrace.cli.stored import dollars, run
from headrace.errors import UserError
from headrace.gateway.bill_files import read_bill
from headrace.gateway.price_sources import sources
from headrace.gateway.reconcile import reconcile as book_differences
from headrace.store.verify import verify as check

ledger = typer.Typer(no_args_is_help=True, help="Check the books.")


@ledger.callback()
def group() -> None:
    """Check the books."""


@ledger.command()
def verify(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Add everything up again; exit 1 where anything does not agree."""
    report = run(ctx, check)
    if as_json:
        emit_json(report._asdict())
    else:
        typer.echo(
            f"{report.transactions} transactions, {report.postings} postings, "
            f"{dollars(report.spent_nanousd)} spent, {dollars(report.reserved_nanousd)} reserved "
            f"now, {report.leased} slices lent now"
        )
        for finding in report.findings:
            typer.echo(f"WRONG: {finding}")
        typer.echo("the books do not balance" if report.findings else "the books balance")
    if report.findings:
        raise typer.Exit(1)


@ledger.command()
def reconcile(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A bill as CSV: OpenAI's, Anthropic's or plain.")],
    provider: Annotated[str, typer.Option(help="Whose it is, as the settings name it.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="It does not have all of the days that it names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Book what a provider's bill differs by into its variance account; again changes nothing."""
    known = settings(ctx).providers
    if provider not in known:
        raise UserError(
            f"there is no provider {provider!r} in the settings; there is: "
            f"{', '.join(known) or 'none'}"
        )
    try:
        rows = read_bill(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    source = sources({provider: known[provider]})[provider]
    found = run(
        ctx,
        lambda c: book_differences(
            c, provider, rows, source=source, now_s=int(time.time()), partial=partial
        ),
    )
    if as_json:
        emit_json(found._asdict())
        return
    typer.echo(
        f"{found.lines} lines: the bill says {dollars(found.bill_nanousd)}, the books "
        f"{dollars(found.booked_nanousd)}; variance {dollars(found.variance_nanousd)}, of which "
        f"{dollars(found.posted_nanousd)} posted now"
    )
    for name in found.unknown:
        typer.echo(f"on the bill and not in the books: {name or 'anything'}")
    for name in found.unbilled:
        typer.echo(f"in the books and not on the bill: {name or 'anything'}")
