"""A library of indexes over hashed words: no model, no tokenizer, the real store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headrace.errors import ModelNotFound
from headrace.retrieval.chunking import Chunker, Chunking
from headrace.retrieval.contracts import IndexStore, Scope
from headrace.retrieval.library import Library
from headrace.retrieval.vectors import rows
from headrace.testing.embedder import HashEmbedder
from headrace.types import (
    Chunk,
    Embedder,
    EmbedRequest,
    Errand,
    IndexOwner,
    IndexSpec,
    NewDocument,
    SearchRequest,
    SearchResult,
    SourceDocument,
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


def library(directory: Path) -> Library:
    return Library(directory / "indexes", cut=lambda _: Lines(), seek=Nearest)


def spec(name: str = "notes", owner: IndexOwner = RED, *, shared: bool = False) -> IndexSpec:
    return IndexSpec(name=name, owner=owner, shared=shared)


def text(id: str, said: str, *readers: str) -> NewDocument:
    made = NewDocument(id=id, data=said.encode())
    return replace(made, readers=frozenset(readers)) if readers else made


def other_model(dimensions: int = 96) -> HashEmbedder:
    """Another model: other vectors of the same texts."""
    return HashEmbedder(name=f"hash-{dimensions}", dimensions=dimensions)
