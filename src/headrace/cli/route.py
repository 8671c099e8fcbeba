"""`headrace route check|train`: where a request would go and why; a classifier for rules."""

import asyncio
from dataclasses import asdict, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from headrace import app
from headrace.cli.report import console, emit_json, settings
from headrace.errors import UserError
from headrace.gateway.prices import nanousd
from headrace.gateway.routing.explain import Explained
from headrace.gateway.routing.rules import Answer
from headrace.gateway.routing.training import Report, read_examples
from headrace.gateway.routing.training import train as train_classifier
from headrace.types import Caller
from headrace.wire import openai_chat

route = typer.Typer(no_args_is_help=True, help="Where requests go, and why.")
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@route.callback()
def group() -> None:
    """Where requests go, and why."""


@route.command()
def check(
    ctx: typer.Context,
    request: Annotated[
        Path, typer.Argument(help="A body of POST /v1/chat/completions; its model is the route.")
    ],
    org: Annotated[str, typer.Option(help="As if this organization asked.")] = "",
    team: Annotated[str, typer.Option(help="This team.")] = "",
    user: Annotated[str, typer.Option(help="This user.")] = "",
    feature: Annotated[str, typer.Option(help="For this feature.")] = "",
    data_class: Annotated[
        list[str] | None, typer.Option(help="Its data is of this class; repeatable.")
    ] = None,
    budget_left: Annotated[
        str | None, typer.Option(help="Dollars that the caller has left; without it no budget.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Which way a request would go, and why. Nothing is sent."""
    call = openai_chat.decode(request.read_bytes())
    caller = Caller(
        org=org, team=team, user=user, feature=feature, data_classes=frozenset(data_class or ())
    )
    explained = asyncio.run(
        app.explain_route(
            settings(ctx),
            replace(call.request, caller=caller),
            budget_left_nanousd=None if budget_left is None else _nanousd(budget_left),
        )
    )
    if as_json:
        emit_json(_as_json(explained))
        return
    out = console()
    decision = explained.decision
    out.print(Text(f"{explained.route}: {decision.told}"))
    for name, why in decision.passed_over:
        out.print(Text(f"  passed over {name!r}: {why}"))
    if isinstance(decision.action, Answer):
        out.print(Text(f"  answer: {decision.action.text}"))
    if explained.way:
        out.print(Text(f"  that is: {explained.way}"))
    for reach in explained.models:
        may = f"not asked: {reach.forbidden}" if reach.forbidden else "may be asked"
        out.print(Text(f"  {reach.target.model} at {reach.place}: {may}"))
    if explained.cache:
        out.print(Text(f"  cache: {explained.cache}"))


@route.command()
def train(
    labels: Annotated[Path, typer.Argument(help='JSON Lines of {"text": ..., "label": ...}.')],
    out: Annotated[Path, typer.Option(help="Directory for the classifier.")],
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.5, help="Part of each label's texts that measures it.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Which texts are held out.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier for rules with `label`, and measure it on texts it has not seen."""
    report = train_classifier(read_examples(labels), out, held_out=held_out, seed=seed)
    if as_json:
        emit_json(asdict(report))
        return
    _show(report, out)


def _show(report: Report, out: Path) -> None:
    table = Table("label", box=None, pad_edge=False)
    for column in ("held out", "precision", "recall", "f1"):
        table.add_column(column, justify="right")
    for score in report.labels:
        table.add_row(
            Text(score.label),
            str(score.texts),
            *(f"{value:.3f}" for value in (score.precision, score.recall, score.f1)),
        )
    console().print(table)
    console().print(
        Text(
            f"accuracy {report.accuracy:.3f} on {report.held_out} held-out texts of "
            f"{report.examples}; always the most frequent label: {report.majority_accuracy:.3f}\n"
            f"saved in {out}, trained on all of them"
        )
    )


def _as_json(explained: Explained) -> dict[str, Any]:
    decision = explained.decision
    return {
        "route": explained.route,
        "action": type(decision.action).__name__.lower(),
        **asdict(decision.action),
        "rule": decision.rule,
        "config": decision.version,
        "passed_over": [{"rule": rule, "why": why} for rule, why in decision.passed_over],
        "way": explained.way,
        "models": [asdict(reach) for reach in explained.models],
        "cache": explained.cache,
    }


def _nanousd(dollars: str) -> int:
    try:
        amount = Decimal(dollars)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise UserError(f"--budget-left {dollars!r} is not an amount of dollars")
    return nanousd(amount)
