"""`headrace index answer`: a question → an answer from an index, each claim with its place."""

from typing import Annotated

import typer

from headrace.cli import connect
from headrace.cli.index_work import on_index
from headrace.cli.report import console, emit_json, settings
from headrace.cli.terminal import visible
from headrace.retrieval.library import Library
from headrace.types import (
    ChatRequest,
    Choice,
    Citation,
    CitationPolicy,
    CitationVerdict,
    Collected,
    Errand,
    Grounding,
    IndexOwner,
    Message,
    Role,
    SamplingParams,
    TextPart,
    collect,
)


def answer(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the index.")],
    question: Annotated[str, typer.Argument(help="What to answer from its documents.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint or hub id; with --url, the name there.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A server to ask [one on port 8080, else the model runs here]."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Its API key [$OPENAI_API_KEY].")] = None,
    policy: Annotated[
        CitationPolicy | None,
        typer.Option(help="For claims that their source does not support [the index']."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 256,
    as_: Annotated[
        list[str] | None,
        typer.Option("--as", help="Answer as these principals; none = as who sees everything."),
    ] = None,
    org: Annotated[str, typer.Option(help="Whose it is; with --team.")] = "",
    team: Annotated[str, typer.Option(help="Whose it is; none = the installation's own.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Answer a question from an index, with citations that were checked."""
    chosen = settings(ctx)
    source = connect.choose(chosen, model=model, url=url, key=key)

    async def work(library: Library, errand: Errand) -> Collected:
        async with connect.connected(source) as backend:
            how = Grounding(
                index=name,
                principals=frozenset(as_) if as_ else None,
                policy=policy,
                context_tokens=backend.card.context_tokens,
                counter=backend.counter,
            )
            request = ChatRequest(
                model=source.model or backend.card.name,
                messages=(Message(role=Role.USER, parts=(TextPart(text=question),)),),
                sampling=SamplingParams(
                    max_tokens=max_tokens,
                    temperature=0.0,
                    given=frozenset({"max_tokens", "temperature"}),
                ),
                caller=errand.caller,
                trail=errand.trail,
                streamed=False,
            )
            return await collect(library.grounded(how, backend, errand).stream(request))

    [choice] = on_index(chosen, name, IndexOwner(org, team), work).choices
    if as_json:
        emit_json(
            {
                "answer": choice.text,
                "not_in_sources": choice.not_in_sources,
                "finish_reason": choice.finish,
                "citations": choice.citations,
            }
        )
        return
    _show(choice)


def _show(choice: Choice) -> None:
    out = console()
    out.print(visible(choice.text.strip()), markup=False, soft_wrap=True)
    if choice.not_in_sources:
        out.print("the sources do not hold the answer", style="dim", markup=False)
    elif not choice.citations:
        out.print("nothing in it is cited: its claims were not checked", style="dim", markup=False)
    for citation in choice.citations:
        out.print(_told(citation), style="dim", markup=False, soft_wrap=True)


def _told(citation: Citation) -> str:
    if citation.verdict is CitationVerdict.SUPPORTED:
        where = f"{citation.document} {citation.start}-{citation.end}"
        return f"[{citation.source}] {where}, support {citation.support:.2f}: {citation.quote!r}"
    return f"[{citation.source}] {citation.verdict}: {citation.reason}"
