"""`headrace serve [MODEL]`: the service, until Ctrl-C or SIGTERM drains it."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import GlobalOptions, report, serving


def serve(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Checkpoint directory or hub id; without it the bundled sprout."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="none, int8 or int4: round full-precision weights while loading."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Context in tokens; 0 = the checkpoint's own.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file used instead of the checkpoint's template.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="No API key; only on a loopback address.")
    ] = False,
) -> None:
    """Serve a model over HTTP, OpenAI-compatible, with a page to talk to it."""
    options = {
        "model.path": model,
        "model.name": name,
        "model.dtype": dtype,
        "model.quantization": quantization,
        "model.device": device,
        "model.context_tokens": context,
        "model.chat_template": None if chat_template is None else str(chat_template),
        "server.host": host,
        "server.port": port,
        "server.auth": False if no_auth else None,
    }
    report.settings(ctx, options)  # what is mistyped is refused before anything else
    found: object = ctx.obj
    serving.become(found if isinstance(found, GlobalOptions) else GlobalOptions(), options)
