"""`headrace train sweep`: a grid of small models, and what it says about larger ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from headrace.cli.report import console, emit_json, progress, progress_console
from headrace.cli.train.options import Json, Sets
from headrace.errors import ServiceError

if TYPE_CHECKING:
    from headrace.training.scaling.sweep import Swept


def sweep(
    data: Annotated[
        Path, typer.Option(help="A *.jsonl, *.txt, either with .gz, or a directory of them.")
    ],
    grid: Annotated[
        list[str],
        typer.Option(
            help="SHAPES:TOKENS, every shape with every amount: 2x64,3x96:250k,1M; repeatable."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Where it is made: OUT/runs, OUT/scaling.json, OUT/scaling.svg.")
    ] = Path("sweep"),
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Training FLOPs to plan for, such as 1e15; repeatable."),
    ] = None,
    held_out: Annotated[
        str,
        typer.Option(
            help="The run that the fit does not see, by its name (3x96-1M); largest = the one of "
            "most FLOPs; none = all are fitted."
        ),
    ] = "largest",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Take the vocabulary of this model; without it one is trained."),
    ] = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Train a grid of small models, fit a scaling law, predict a held-out run.

    What is finished in OUT is kept and what was interrupted goes on, so the same command again
    continues a sweep.
    """
    from headrace.training.loop import Interrupted
    from headrace.training.scaling import sweep as sweeps

    plan = sweeps.template(sets or [])
    cells = sweeps.parse_grid(grid)
    remarks = progress_console()
    swept: Swept | None = None
    with progress("reading the texts", total=len(cells)) as bar:
        try:
            for event in sweeps.sweep(
                plan,
                cells,
                data=data,
                out=out,
                tokenizer=tokenizer,
                held_out=None if held_out == "none" else held_out,
                budgets=budget or (),
            ):
                match event:
                    case sweeps.Begun():
                        remarks.print(f"{event.runs} runs, {event.flops:.2g} FLOPs in all")
                    case sweeps.Training():
                        bar.update(description=f"{event.name} step {event.step}/{event.steps}")
                    case sweeps.Done():
                        run, kept = event.run, " (kept)" if event.kept else ""
                        remarks.print(f"{run.name}: loss {run.loss:.4f}{kept}", markup=False)
                        bar.advance()
                    case sweeps.Swept():
                        swept = event
        except Interrupted as error:
            raise ServiceError(
                f"{str(error).partition(';')[0]}; the same command goes on from there"
            ) from error
    assert swept is not None
    if json:
        emit_json(sweeps.as_json(swept, plan))
    else:
        _show(swept)


def _show(swept: "Swept") -> None:
    out, law = console(), swept.fit.law
    out.print(
        f"L(N, D) = {law.E:.4g} + {law.A:.4g} / N^{law.a:.4g} + {law.B:.4g} / D^{law.b:.4g}"
        f"   (fits {swept.fit.runs} runs to {swept.fit.residual:.2%})"
    )
    if swept.fit.intervals:
        out.print(
            "90 % of resamples: "
            + ", ".join(f"{n} {i.low:.4g} to {i.high:.4g}" for n, i in swept.fit.intervals.items())
        )
    if (told := swept.held_out) is not None:
        out.print(
            f"held out {told.run.name}: predicted {told.loss:.4f}, measured {told.run.loss:.4f}, "
            f"{told.error:+.2%}",
            markup=False,
        )
    if swept.optima:
        table = Table("FLOPs", title="what a budget should buy", title_justify="left")
        names = ("parameters", "tokens", "tokens a parameter", "predicted loss", "extrapolated")
        for name in names:
            table.add_column(name, justify="right")
        for best in swept.optima:
            table.add_row(
                f"{best.flops:.3g}",
                f"{best.parameters:,.0f}",
                f"{best.tokens:,.0f}",
                f"{best.tokens_per_parameter:.1f}",
                f"{best.loss:.4f}",
                f"{beyond:,.0f}x" if (beyond := swept.beyond(best)) > 1 else "no",
            )
        out.print(table)
    out.print(f"{swept.path} and {swept.path.with_suffix('.svg').name} have it all", markup=False)
