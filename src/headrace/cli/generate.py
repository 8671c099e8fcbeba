"""`headrace generate PROMPT`: one prompt, its answer streamed to stdout, then exit."""

import asyncio
import sys
from typing import Annotated, Any

import typer

from headrace.cli import connect, report
from headrace.cli.terminal import show
from headrace.errors import UserError
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Message,
    ReasoningDelta,
    Role,
    SamplingParams,
    TextDelta,
    TextPart,
)


def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from stdin.")],
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint or hub id; with --url, the name there."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A server to ask, http://HOST:PORT.")] = None,
    key: Annotated[str | None, typer.Option(help="Its API key [$OPENAI_API_KEY].")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt (with --chat).")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens [to the context's end].")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 = the likeliest token [the model's].")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Nucleus [model's].")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="0 = off [the model's].")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before it; repeatable.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Through the chat template, or as it stands.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON document at the end.")] = False,
) -> None:
    """Answer one prompt, streamed to the terminal."""
    text = connect.text_of(sys.stdin.buffer.read() if prompt == "-" else prompt)
    if not text:
        raise UserError("the prompt is empty; give some text, or - and something on stdin")
    if system is not None and not chat:
        raise UserError("--system needs the chat template; leave out --raw")
    source = connect.choose(report.settings(ctx), model=model, url=url, key=key)
    sampling = sampling_of(
        {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "stop": tuple(stop) if stop else None,
        }
    )
    tally = asyncio.run(_answer(source, text, system, sampling, chat=chat, quiet=json))
    if json:
        report.emit_json(_document(tally))
        return
    if not tally.text.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    remarks = report.progress_console()
    if remarks.is_terminal:
        remarks.print(tally.facts(), style="dim", markup=False)


def sampling_of(options: dict[str, Any]) -> SamplingParams:
    """Sampling of what was given; None means the option was not, so the model's default holds."""
    given = {name: value for name, value in options.items() if value is not None}
    return SamplingParams(**given, given=frozenset(given))


async def _answer(
    source: connect.Source,
    text: str,
    system: str | None,
    sampling: SamplingParams,
    *,
    chat: bool,
    quiet: bool,
) -> connect.Tally:
    async with connect.connected(source) as backend:
        name = source.model or backend.card.name
        if chat:
            turns = [(Role.SYSTEM, system)] if system is not None else []
            turns.append((Role.USER, text))
            messages = tuple(
                Message(role=role, parts=(TextPart(text=said),)) for role, said in turns
            )
            stream = backend.stream(ChatRequest(model=name, messages=messages, sampling=sampling))
        else:
            stream = backend.complete(CompletionRequest(model=name, prompt=text, sampling=sampling))
        tally = connect.Tally()
        async for event in stream:
            tally.add(event)
            if quiet:
                continue
            if isinstance(event, TextDelta):
                show(sys.stdout, event.text)
            elif isinstance(event, ReasoningDelta):
                show(sys.stderr, event.text)
        return tally


def _document(tally: connect.Tally) -> dict[str, object]:
    started, usage = tally.started, tally.usage
    return {
        "id": started.id if started else None,
        "model": started.model if started else None,
        "seed": started.seed if started else None,
        "text": tally.text,
        "reasoning": tally.reasoning or None,
        "tool_calls": tally.tool_calls or None,
        "finish_reason": tally.finish,
        "usage": usage,
        "ttft_s": tally.ttft_s,
        "tokens_per_s": tally.tokens_per_s,
    }
