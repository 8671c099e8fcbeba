"""`headrace quantize MODEL --to FORMAT`: a smaller, faster model, and what it lost, measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from headrace.cli.report import console, emit_json, progress, progress_console

if TYPE_CHECKING:
    from headrace.training.quality import Quality

Model = Annotated[str, typer.Argument(help="Checkpoint directory or hub id, full precision.")]


def quantize(
    model: Model,
    to: Annotated[
        str,
        typer.Option(
            help="int8, int4 or fp8. fp8 is for GPUs; a CPU turns it into bfloat16 as it loads."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Directory to write; default: MODEL-FORMAT, here.")
    ] = None,
    group: Annotated[
        int, typer.Option(help="Inputs that share a scale, of int8 and int4: 32, 64 or 128.")
    ] = 32,
    method: Annotated[
        str,
        typer.Option(
            help="rtn rounds to nearest; gptq fits to texts, which takes minutes to hours; auto is "
            "gptq for int4, else rtn."
        ),
    ] = "auto",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Texts to fit to and, a quarter of the documents, to measure on: *.txt, *.jsonl, "
            "also .gz, or a directory of them; default: the documentation of Python's standard "
            "library."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Matrices to keep in bf16, or =int8: lm_head, down_proj, layers.0=int8; "
            "repeatable. int4 keeps lm_head=int8 unless told lm_head=int4."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="Largest rise of the held-out loss, in nats a token, at which to write anything; "
            "default: 0.002 (0.2 % of perplexity) for int8, 0.02 for fp8, 0.05 for int4."
        ),
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(min=1, help="Tokens to fit to.")] = 65_536,
    held_out_tokens: Annotated[int, typer.Option(min=1, help="Tokens to measure on.")] = 32_768,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Quantize a model, measure what it lost on held-out text, write a directory to serve."""
    from headrace.model.calibrate import MatrixDone
    from headrace.model.hub import resolve
    from headrace.model.quantization import FP8, Keep
    from headrace.training import quantize as recipe

    plan = recipe.Plan(
        format=to,
        group=group,
        method=method,
        keep=[Keep.parse(text) for text in keep or ()],
        max_loss=max_loss,
        calibration_tokens=calibration_tokens,
        held_out_tokens=held_out_tokens,
    )
    source = resolve(model)
    target = out or Path(f"{source.resolve().name}-{to}")
    remarks = progress_console()
    measured: recipe.Measured | None = None
    written: recipe.Written | None = None
    with progress("reading texts, measuring full precision", total=1) as bar:
        for event in recipe.run(plan, source=source, out=target, texts=calibrate):
            match event:
                case recipe.Begun():
                    bar.update(total=event.matrices, description=f"{to} by {event.method}")
                    if to == FP8:
                        remarks.print("fp8 is for GPUs: a CPU turns it into bfloat16 as it loads")
                case MatrixDone():
                    bar.advance()
                    bar.update(description=event.name)
                case recipe.Measured():
                    measured = event
                    if not json:
                        console().print(_table(event.quality, to))
                case recipe.Written():
                    written = event
    assert measured is not None
    assert written is not None
    if json:
        emit_json({"written": written, "measured": measured})
        return
    typer.echo(
        f"{written.path}: {written.weight_bytes:,} bytes of weights, "
        f"{written.weight_bytes / written.weight_bytes_before:.0%} of the original"
    )
    typer.echo(f"serve it: headrace serve {written.path}")


def _table(quality: "Quality", format: str) -> Table:
    table = Table("on held-out text", title=f"{quality.tokens:,} tokens", title_justify="left")
    for name in ("full precision", format):
        table.add_column(name, justify="right")
    rows = (
        ("perplexity", f"{quality.perplexity_before:.4f}", f"{quality.perplexity_after:.4f}"),
        ("loss, nats a token", f"{quality.loss_before:.5f}", f"{quality.loss_after:.5f}"),
        ("KL, mean", "0", f"{quality.kl_mean:.2e}"),
        ("KL, 99th percentile", "0", f"{quality.kl_p99:.2e}"),
        ("same likeliest token", "100 %", f"{quality.same_choice:.2%}"),
    )
    for row in rows:
        table.add_row(*row)
    return table
