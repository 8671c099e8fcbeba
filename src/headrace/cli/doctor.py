"""`headrace doctor`: which kernels run here and how fast this machine could be."""

from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.report import console, emit_json, progress, settings
from headrace.engine.threads import physical_cores
from headrace.kernels.diagnosis import Diagnosis, diagnose

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]


def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Which kernels run and why not others, threads, huge pages, and the two walls, measured.

    Exit code 0: native kernels run, or there is a GPU; 1: only plain torch does, which is slow.
    """
    threads = settings(ctx).engine.threads or physical_cores()
    with progress("measuring memory and arithmetic"):
        found = diagnose(threads)
    if as_json:
        emit_json(found)
    else:
        _print(found)
    if not found.fast:
        raise typer.Exit(1)


def _print(found: Diagnosis) -> None:
    out = console()
    kernels = Table("kernels", "", title="native builds", title_justify="left")
    for build in found.builds:
        kernels.add_row(build.isa, "[bold]runs[/]" if build.runs else build.why_not)
    machine = Table("", "", title="machine", title_justify="left", show_header=False)
    machine.add_row("threads", str(found.threads))
    machine.add_row("huge pages", found.huge_pages)
    machine.add_row("torch", found.torch)
    for gpu in found.gpus:
        machine.add_row("GPU", f"{gpu.name}, {gpu.memory_bytes / (1 << 30):.0f} GiB")
    if found.walls is not None:
        machine.add_row("memory wall", f"{found.walls.read_gb_s:.1f} GB/s read")
        machine.add_row("int8 wall", f"{found.walls.int8_gop_s:,.0f} Gop/s")
        machine.add_row("bfloat16 wall", f"{found.walls.bf16_gflop_s:,.0f} Gflop/s")
    for table in (kernels, machine):
        out.print(table)
    if found.tokens_s:
        bounds = ", ".join(f"{rate:.0f} in {name}" for name, rate in found.tokens_s.items())
        out.print(f"tokens/s of one request, per 1e9 weights, at most: {bounds}", soft_wrap=True)
    for line in found.advice:
        out.print(f"- {line}", soft_wrap=True)
