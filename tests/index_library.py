"""A library of indexes over hashed words: no model, no tokenizer, the real store."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from headrace.errors import ModelNotFound
from headrace.retrieval.chunking import Chunker, Chunking
from headrace.retrieval.contracts import IndexStore, Scope
from headrace.retrieval.homes.contracts import Home
from headrace.retrieval.library import Fetch, Library, Search
from headrace.retrieval.vectors import rows
from headrace.testing.embedder import HashEmbedder
from headrace.types import (
    Backend,
    ChatRequest,
    Chunk,
    Citation,
    CitationVerdict,
    Embedder,
    EmbedRequest,
    Errand,
    Event,
    Finished,
    FinishReason,
    Grounding,
    IndexOwner,
    IndexSpec,
    NewDocument,
    SearchRequest,
    SearchResult,
    SourceDocument,
    Started,
    TextDelta,
    Usage,
)

RED = IndexOwner("acme", "red")
BLUE = IndexOwner("acme", "blue")


class Lines(Chunker):
    """Cuts a document at its line breaks."""

    def __init__(self) -> None:
        super().__init__(Chunking(), lambda said: range(len(said.split())), tokenizer="words")
        self.digest = "lines"

    def chunks(self, document: SourceDocument) -> tuple[Chunk, ...]:
        found: list[Chunk] = []
        at = 0
        for line in document.text.splitlines(keepends=True):
            text = line.rstrip("\n")
            if text.strip():
                found.append(
                    Chunk(
                        document=document.id,
                        ordinal=len(found),
                        start=at,
                        end=at + len(text),
                        text=text,
                        tokens=len(text.split()),
                    )
                )
            at += len(line)
        return tuple(found)


class Nearest:
    """Ranks by cosine alone, so that an answer shows which generation it is from."""

    def __init__(self, store: IndexStore, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder

    async def search(self, request: SearchRequest) -> SearchResult:
        generation = await self._store.active()
        asked = EmbedRequest(model="", inputs=(request.query,))
        made = await self._embedder.embed(asked)
        scope = Scope(principals=request.principals, filter=request.filter)
        vector = rows(made.data, made.dimensions)[0]
        found = await self._store.nearest(generation.number, vector, request.k, scope)
        return SearchResult(
            passages=found.passages,
            snapshot=found.snapshot,
            matching=found.matching,
            shortfall=found.shortfall,
            usage=made.usage,
        )


def embedders(*models: Embedder) -> Callable[[str], Embedder]:
    """By name; the first is what an empty name means."""

    def find(name: str) -> Embedder:
        for model in models:
            if not name or model.card.name == name:
                return model
        raise ModelNotFound(f"there is no {name!r}")

    return find


def errand(*models: Embedder, owner: IndexOwner = RED) -> Errand:
    return Errand(embedder=embedders(*(models or (HashEmbedder(),))), owner=owner)


class Quoting:
    """Answers with the best passage, word for word, and cites it."""

    def __init__(
        self, search: Search, fetch: Fetch, spec: IndexSpec, how: Grounding, backend: Backend
    ) -> None:
        self._search = search
        self._how = how
        self._k = how.k or spec.k

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        found = await self._search(
            SearchRequest(
                index=self._how.index,
                query=request.messages[-1].text,
                k=self._k,
                principals=self._how.principals,
                filter=self._how.filter,
            )
        )
        yield Started(id=request.trace, model=request.model, created_s=1, prompt_tokens=7)
        if found.passages:
            best = found.passages[0].chunk
            yield TextDelta(text=f"{best.text} [1]")
            yield Citation(
                document=best.document,
                start=best.start,
                end=best.end,
                support=1.0,
                source=1,
                quote=best.text,
                verdict=CitationVerdict.SUPPORTED,
            )
        yield Finished(
            reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=7, completion_tokens=3),
            not_in_sources=not found.passages,
        )


def library(directory: Path, home: Home | None = None) -> Library:
    return Library(
        directory / "indexes", cut=lambda _: Lines(), seek=Nearest, ground=Quoting, home=home
    )


def spec(name: str = "notes", owner: IndexOwner = RED, *, shared: bool = False) -> IndexSpec:
    return IndexSpec(name=name, owner=owner, shared=shared)


def text(id: str, said: str, *readers: str) -> NewDocument:
    made = NewDocument(id=id, data=said.encode())
    return replace(made, readers=frozenset(readers)) if readers else made


def other_model(dimensions: int = 96) -> HashEmbedder:
    """Another model: other vectors of the same texts."""
    return HashEmbedder(name=f"hash-{dimensions}", dimensions=dimensions)
