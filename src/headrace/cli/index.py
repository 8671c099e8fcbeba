"""`headrace index ...`: documents go in, passages and cited answers come out."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace import app
from headrace.cli import index_answer, index_care
from headrace.cli.index_files import batches, found_files
from headrace.cli.index_work import on_index
from headrace.cli.report import console, emit_json, progress, settings
from headrace.cli.sheet import show_rows
from headrace.cli.terminal import visible
from headrace.retrieval.library import Library
from headrace.types import (
    CitationPolicy,
    DocumentState,
    DocumentStatus,
    Errand,
    IndexCard,
    IndexOwner,
    IndexSpec,
    Passage,
    SearchRequest,
    SearchResult,
    Synced,
)
from headrace.types.retrieval import SearchMode

index = typer.Typer(no_args_is_help=True, help="Documents to passages and cited answers.")
index.command()(index_answer.answer)
index_care.add(index)

Name = Annotated[str, typer.Argument(help="Of the index.")]
Org = Annotated[str, typer.Option(help="Whose it is; with --team.")]
Team = Annotated[str, typer.Option(help="Whose it is; none = the installation's own.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
_PLAIN = IndexSpec(name="")


@index.callback()
def group() -> None:
    """Documents to passages and cited answers."""


@index.command()
def create(
    ctx: typer.Context,
    name: Name,
    embedder: Annotated[
        str, typer.Option(help="Model of its vectors [embeddings.path, else minilm].")
    ] = "",
    chunk_tokens: Annotated[int, typer.Option(help="Of a chunk.")] = _PLAIN.chunk_tokens,
    overlap_tokens: Annotated[
        int, typer.Option(help="Repeated from the chunk before.")
    ] = _PLAIN.overlap_tokens,
    policy: Annotated[
        CitationPolicy, typer.Option(help="For claims that their source does not support.")
    ] = _PLAIN.policy,
    shared: Annotated[bool, typer.Option("--shared", help="Every team may search it.")] = False,
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """Make an index."""
    chosen, owner = settings(ctx), IndexOwner(org, team)
    spec = IndexSpec(
        name=name,
        owner=owner,
        shared=shared,
        embedder=embedder,
        chunk_tokens=chunk_tokens,
        overlap_tokens=overlap_tokens,
        policy=policy,
    )

    async def work() -> IndexCard:
        async with (
            app.open_library(chosen) as library,
            app.index_errand(chosen, [embedder], owner) as errand,
        ):
            return await library.create(spec, errand)

    card = asyncio.run(work())
    if as_json:
        emit_json(card)
        return
    model = card.generations[0]
    console().print(
        f"index {name} is made: {model.embedder} of {model.dimensions} dimensions, chunks of "
        f"{chunk_tokens} tokens\nnext: headrace index ingest {name} DIRECTORY",
        markup=False,
        soft_wrap=True,
    )


@index.command("list")
def list_indexes(
    ctx: typer.Context,
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """What there is."""
    chosen = settings(ctx)

    async def work() -> Sequence[IndexCard]:
        async with app.open_library(chosen) as library:
            return await library.list(IndexOwner(org, team))

    cards = asyncio.run(work())
    if as_json:
        emit_json(cards)
    elif not cards:
        console().print(
            "there is no index; make one: headrace index create NAME", markup=False, soft_wrap=True
        )
    else:
        show_rows(
            ("index", "documents", "failed", "chunks", "embedder", "generation"),
            [
                (
                    card.spec.name,
                    str(card.documents),
                    str(card.failed or ""),
                    str(card.chunks),
                    next(g.embedder for g in card.generations if g.active),
                    str(next(g.number for g in card.generations if g.active)),
                )
                for card in cards
            ],
        )


@index.command()
def delete(
    ctx: typer.Context, name: Name, org: Org = "", team: Team = "", as_json: Json = False
) -> None:
    """Delete an index with all that it kept."""
    chosen = settings(ctx)

    async def work() -> None:
        async with app.open_library(chosen) as library:
            await library.delete(name, IndexOwner(org, team))

    asyncio.run(work())
    if as_json:
        emit_json({"name": name, "deleted": True})
    else:
        console().print(f"index {name} is deleted", markup=False, soft_wrap=True)


@index.command()
def ingest(
    ctx: typer.Context,
    name: Name,
    paths: Annotated[list[Path], typer.Argument(help="Files and directories.")],
    reader: Annotated[
        list[str] | None,
        typer.Option(help="Who may read them, as user:NAME, team:NAME; none = all who may ask."),
    ] = None,
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """Put files into an index; a path is a document's id, and what is unchanged stays."""
    files = found_files(paths)

    async def work(library: Library, errand: Errand) -> list[DocumentStatus]:
        done: list[DocumentStatus] = []
        with progress("reading and embedding", total=len(files)) as step:
            for batch in batches(files, reader):
                done += (await library.ingest(name, batch, errand)).documents
                step.advance(len(batch))
        return done

    done = on_index(settings(ctx), name, IndexOwner(org, team), work)
    if as_json:
        emit_json(done)
        return
    count = {state: sum(d.state is state for d in done) for state in DocumentState}
    said = [f"{number} {state.value}" for state, number in count.items() if number]
    console().print(f"{len(done)} documents: {', '.join(said)}", markup=False, soft_wrap=True)
    show_failed(done)


@index.command()
def sync(
    ctx: typer.Context,
    name: Name,
    source: Annotated[str, typer.Argument(help="One of its sources; none = all.")] = "",
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """Bring an index to where its sources are: [indexes.NAME.sources.SOURCE] of headrace.toml."""

    async def work(library: Library, errand: Errand) -> Sequence[Synced]:
        return await library.sync(name, source, errand)

    done = on_index(settings(ctx), name, IndexOwner(org, team), work)
    if as_json:
        emit_json(done)
        return
    for item in done:
        console().print(
            f"{item.source}: {item.added} added, {item.changed} changed, {item.removed} removed, "
            f"{item.unchanged} unchanged; {item.embedded} chunks embedded",
            markup=False,
        )
        show_failed(item.failed)


@index.command()
def search(
    ctx: typer.Context,
    name: Name,
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    k: Annotated[int, typer.Option("-k", help="Passages.")] = 5,
    mode: Annotated[SearchMode, typer.Option(help="How.")] = SearchMode.HYBRID,
    as_: Annotated[
        list[str] | None,
        typer.Option("--as", help="Search as these principals; none = as who sees everything."),
    ] = None,
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """Find passages."""
    request = SearchRequest(
        index=name,
        query=query,
        k=k,
        mode=mode,
        principals=frozenset(as_) if as_ else None,
    )

    async def work(library: Library, errand: Errand) -> SearchResult:
        return await library.search(request, errand)

    found = on_index(settings(ctx), name, IndexOwner(org, team), work)
    if as_json:
        emit_json(found)
        return
    for place, passage in enumerate(found.passages, start=1):
        show_passage(place, passage)
    if found.shortfall:
        console().print(found.shortfall, markup=False, soft_wrap=True)


def show_passage(place: int, passage: Passage) -> None:
    """A passage, with where it stands."""
    chunk = passage.chunk
    out = console()
    where = f"{chunk.document} {chunk.start}-{chunk.end}"
    out.print(f"{place}. {where}  {passage.score:.3f}", style="bold", markup=False, soft_wrap=True)
    out.print(visible(chunk.text.strip()), markup=False, soft_wrap=True)
    out.print()


def show_failed(documents: Iterable[DocumentStatus]) -> None:
    """Those that cannot be found, with the reason of each."""
    for item in documents:
        if item.state is DocumentState.FAILED:
            console().print(
                f"  {item.id}: {item.reason}: {item.detail}", markup=False, soft_wrap=True
            )
