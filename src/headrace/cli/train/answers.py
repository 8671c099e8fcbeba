"""`headrace train answers`: what a model or a server answers to prompts, as chats to tune on."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli import connect, report
from headrace.cli.generate import sampling_of
from headrace.cli.train.options import Json
from headrace.data import records
from headrace.types import SamplingParams

if TYPE_CHECKING:
    from headrace.training.distill.answers import Tally


def answers(
    ctx: typer.Context,
    prompts: Annotated[
        Path, typer.Option(help="JSON lines of `prompt` (text) or `messages`, perhaps `tools`.")
    ],
    out: Annotated[Path, typer.Option(help="JSON lines of `messages`; run again to go on.")],
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint or hub id; with --url, the name there."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A server to ask, http://HOST:PORT.")] = None,
    key: Annotated[str | None, typer.Option(help="Its API key [$OPENAI_API_KEY].")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers of each prompt.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens [to the context's end].")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 = the likeliest token [the model's].")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Nucleus [model's].")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first sample.")] = None,
    json: Json = False,
) -> None:
    """Ask a model or a server, and keep what it answers as chats for `headrace train sft`."""
    asked = list(records.prompts(prompts))
    source = connect.choose(report.settings(ctx), model=model, url=url, key=key)
    given = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    tally = asyncio.run(
        _ask(source, asked, out, sampling_of(given), samples=samples, concurrency=concurrency)
    )
    found = {
        "path": str(out),
        "asked": tally.asked,
        "found": tally.found,
        "answered": tally.answered,
        "dropped": dict(tally.dropped),
        "failed": dict(tally.failed),
        "completion_tokens": tally.completion_tokens,
    }
    if json:
        report.emit_json(found)
        return
    dropped = "".join(f", {count} dropped: {why}" for why, count in tally.dropped.items())
    failed = "".join(f", {count} failed: {code}" for code, count in tally.failed.items())
    typer.echo(f"{out}: {tally.answered} new, {tally.found} there before{dropped}{failed}")
    if tally.failed:
        typer.echo(f"the last error: {tally.last_error}; run again to ask for those", err=True)


async def _ask(
    source: connect.Source,
    asked: list[records.Prompt],
    out: Path,
    sampling: SamplingParams,
    *,
    samples: int,
    concurrency: int,
) -> "Tally":
    from headrace.training.distill import answers as distill

    async with connect.connected(source) as backend:
        asking = distill.Asking(
            model=source.model or backend.card.name,
            sampling=sampling,
            samples=samples,
            concurrency=concurrency,
        )
        tally = distill.Tally(asked=len(asked) * samples)
        with report.progress("asking", total=tally.asked) as bar:
            async for tally in distill.ask(backend, asked, out, asking):
                bar.update(completed=tally.done)
        return tally
