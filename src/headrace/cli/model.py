"""`headrace model inspect PATH`: what a checkpoint is made of and what fits in this machine."""

from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.report import console, emit_json
from headrace.model.encoder_config import is_encoder
from headrace.model.files import read_json
from headrace.model.hub import resolve
from headrace.model.inspect import Inspection
from headrace.model.inspect import inspect as inspect_directory
from headrace.model.inspect_encoder import EncoderInspection, inspect_encoder

model = typer.Typer(no_args_is_help=True, help="Look into a checkpoint.")

Path = Annotated[str, typer.Argument(help="Checkpoint directory or hub id.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]


@model.callback()
def group() -> None:
    """Look into a checkpoint."""


@model.command()
def inspect(path: Path, as_json: Json = False) -> None:
    """Parameters by part, bytes per type, KV bytes and FLOPs per token, and what fits in memory."""
    directory = resolve(path)
    if is_encoder(read_json(directory / "config.json")):
        _show_encoder(inspect_encoder(directory), as_json=as_json)
        return
    found = inspect_directory(directory)
    if as_json:
        emit_json(found)
        return
    out = console()
    stored = ", ".join(f"{_bytes(size)} as {name}" for name, size in found.stored_bytes.items())
    out.print(
        f"{found.path}: {found.family}, {found.layers} layers, {_count(found.parameters)} "
        f"parameters, context {found.context_tokens:,} tokens; quantization {found.quantization}; "
        f"stored {stored}"
    )
    for table in (_parts(found), _per_token(found), _fits(found)):
        out.print(table)


def _show_encoder(found: EncoderInspection, *, as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    out = console()
    normalized = "of length one" if found.normalize else "of any length"
    out.print(
        f"{found.path}: {found.family} encoder, {found.layers} layers, "
        f"{_count(found.parameters)} parameters; texts up to {found.max_tokens:,} tokens to "
        f"vectors of {found.dimensions} numbers {normalized}, pooled by {found.pooling}"
    )
    for name, prompt in found.prompts.items():
        out.print(f"prompt {name}: {prompt!r}")
    out.print(_parts(found))
    table = Table(title="cost", title_justify="left")
    for name in ("tokens of the input", "FLOPs per token"):
        table.add_column(name, justify="right")
    for length, flops in found.flops_per_token.items():
        table.add_row(f"{length:,}", _count(flops))
    out.print(table)


def _parts(found: Inspection | EncoderInspection) -> Table:
    table = Table("part", title="parameters", title_justify="left")
    for name in ("parameters", "share"):
        table.add_column(name, justify="right")
    for part, count in found.parameters_by_part.items():
        shown = f"{count:,}" if count else "tied" if part == "head" else "0"
        table.add_row(part, shown, f"{count / found.parameters:.1%}")
    table.add_row("total", f"{found.parameters:,}", "100.0%")
    return table


def _per_token(found: Inspection) -> Table:
    table = Table("type", title="bytes", title_justify="left")
    for name in ("weights", "KV per token"):
        table.add_column(name, justify="right")
    for dtype, size in found.weight_bytes.items():
        table.add_row(dtype, _bytes(size), _bytes(found.kv_bytes_per_token[dtype]))
    return table


def _fits(found: Inspection) -> Table:
    title = f"what fits beside the weights in the {_bytes(found.memory_bytes)} available here"
    table = Table(title=title, title_justify="left")
    table.add_column("context", justify="right")
    table.add_column("FLOPs per token there", justify="right")
    for dtype in found.weight_bytes:
        table.add_column(f"sequences, {dtype}", justify="right")
    counts = {(fit.dtype, fit.context_tokens): fit.sequences for fit in found.fits}
    for context in sorted({fit.context_tokens for fit in found.fits}):
        table.add_row(
            f"{context:,}",
            _count(found.flops_per_token[context]),
            *(f"{counts[dtype, context]:,}" for dtype in found.weight_bytes),
        )
    return table


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _count(number: int) -> str:
    amount = float(number)
    for suffix in ("", " k", " M", " G"):
        if amount < 1000:
            return f"{amount:.4g}{suffix}"
        amount /= 1000
    return f"{amount:.4g} T"
