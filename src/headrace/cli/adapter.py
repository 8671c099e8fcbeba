"""`headrace adapter VERB`: look into an adapter, merge it, take it out again, export it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.report import console, emit_json

adapter = typer.Typer(no_args_is_help=True, help="Inspect, merge, unmerge and export adapters.")

Directory = Annotated[Path, typer.Argument(help="The adapter's directory, in PEFT's format.")]
Base = Annotated[Path, typer.Option(help="Directory of the model that it was trained over.")]
Out = Annotated[Path, typer.Option(help="Directory to write; it must not exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Into(StrEnum):
    """Which weights an adapter is added to."""

    FULL = "full"
    NF4 = "nf4"


class Target(StrEnum):
    """Who is to load an exported adapter."""

    PEFT = "peft"
    VLLM = "vllm"


class Dtype(StrEnum):
    """What tensors are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@adapter.callback()
def group() -> None:
    """Inspect, merge, unmerge and export adapters."""


@adapter.command()
def inspect(directory: Directory, base: Base, as_json: Json = False) -> None:
    """What an adapter changes of its base, and whether it fits it."""
    from headrace.model.adapter_export import describe

    found = describe(directory, base)
    if as_json:
        emit_json(found)
        return
    out = console()
    out.print(
        f"{found.path}: {found.method}, rank {found.ranks}, alpha {found.alphas}, dropout "
        f"{found.dropout}; {found.parameters:,} parameters, {found.share:.2%} of the base's; "
        f"{found.stored_bytes:,} bytes as {', '.join(found.dtypes)}"
    )
    out.print(f"over {found.base or 'an unnamed base'}, {found.trained_over}; {found.fit}")
    for kind, count in found.targets.items():
        out.print(f"  {kind}: {count} adapted", markup=False)
    for name in found.whole:
        out.print(f"  {name}: trained whole", markup=False)
    for line in found.not_for_vllm:
        out.print(f"not for vLLM: {line}", markup=False, soft_wrap=True)


@adapter.command()
def merge(
    directory: Directory,
    base: Base,
    out: Out,
    into: Annotated[
        Into | None,
        typer.Option(
            help="full = the base's own weights; nf4 = what NF4 stands for; default: what the "
            "adapter was trained over."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write base plus adapter as one model, and say how far its logits moved."""
    from headrace.model.adapter_merge import merge_directory

    made = merge_directory(base, directory, out, into=None if into is None else into.value)
    if as_json:
        emit_json(made)
        return
    for way, moved in made.logit_shift.items():
        chosen = " (written)" if way == made.into else ""
        console().print(
            f"into {way}{chosen}: logits move by at most {moved:.3g} against base and adapter "
            f"apart, as trained over {made.trained_over}; the largest is {made.largest_logit:.3g}",
            soft_wrap=True,
        )
    typer.echo(f"{made.path}: serve it with headrace serve --model {made.path}")


@adapter.command()
def unmerge(
    merged: Annotated[Path, typer.Argument(help="A directory that `adapter merge` wrote.")],
    directory: Annotated[Path, typer.Option("--adapter", help="The adapter that was merged.")],
    out: Out,
    base: Annotated[
        Path | None,
        typer.Option(help="The base, for its exact bits; without it the adapter is subtracted."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the base of a merged model."""
    from headrace.model.adapter_merge import unmerge_directory

    made = unmerge_directory(merged, directory, out, base=base)
    if as_json:
        emit_json(made)
        return
    how = "the base's bits, checked" if made.exact else "subtracted: right to the type's rounding"
    typer.echo(f"{made.path}: {how}")


@adapter.command()
def export(
    directory: Directory,
    base: Base,
    out: Out,
    target: Annotated[Target, typer.Option(help="peft | vllm.")] = Target.PEFT,
    dtype: Annotated[Dtype, typer.Option(help="Of the tensors.")] = Dtype.FLOAT32,
    max_lora_rank: Annotated[
        int, typer.Option(min=1, help="The --max-lora-rank that vLLM will be started with.")
    ] = 16,
) -> None:
    """Write an adapter for another program, or say why that cannot load it."""
    from headrace.model.adapter_export import export_directory

    export_directory(
        directory,
        base,
        out,
        for_vllm=target is Target.VLLM,
        dtype=dtype.value,
        max_lora_rank=max_lora_rank,
    )
    typer.echo(f"{out}: for {target.value}")
