"""`headrace export MODEL --to FORMAT`: a model for other programs, and its card."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.report import emit_json, progress
from headrace.errors import UserError

_GGUF = ("f16", "q8_0", "q4_0")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def export(
    model: Annotated[
        str, typer.Argument(help="Checkpoint directory, adapter directory or hub id.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="hf = a directory for transformers (an adapter is merged into its base); peft = "
            "an adapter alone; gguf = one file for llama.cpp."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File (gguf) or directory, which must not exist.")],
    type: Annotated[
        str | None,
        typer.Option(
            help="How weights are stored. gguf: f16 (default), q8_0, q4_0. hf and peft: float32, "
            "bfloat16, float16; default: as they are."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Of an adapter: directory or hub id, instead of the one it names."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model in a format that other programs load, with its card."""
    from headrace.model.gguf.export import TensorWritten
    from headrace.model.hub import resolve
    from headrace.training import export as exports

    if to not in exports.FORMATS:
        raise UserError(f"--to {to!r} is none of {', '.join(exports.FORMATS)}")
    allowed = _GGUF if to == "gguf" else _DTYPES
    if type is not None and type not in allowed:
        raise UserError(f"--type {type!r} is none of {', '.join(allowed)}, which --to {to} has")
    if to == "gguf" and base is not None:
        raise UserError("--base is for adapters; --to gguf takes a whole model")
    source = resolve(model)
    made: exports.Exported | None = None
    if to == "hf":
        made = exports.to_hf(source, out, base=base, dtype=type or "auto")
    elif to == "peft":
        made = exports.to_peft(source, out, base=base, dtype=type or "auto")
    else:
        with progress("reading", total=1) as bar:
            for event in exports.to_gguf(source, out, type=type or "f16"):
                match event:
                    case TensorWritten():
                        bar.update(total=event.count, description=event.name)
                        bar.advance()
                    case exports.Exported():
                        made = event
    assert made is not None
    if json:
        emit_json(made)
        return
    counts = ", ".join(f"{count} {name}" for name, count in made.tensors.items())
    typer.echo(f"{made.path}: {made.size_bytes:,} bytes, tensors: {counts}; card {made.card}")
