"""`headrace ledger verify`: the books, checked against themselves."""

from typing import Annotated

import typer

from headrace.cli.report import emit_json
from headrace.cli.stored import dollars, run
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
