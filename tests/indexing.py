"""An index of a directory for tests: a small embedder that counts, texts parsed in this process."""

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chunked
from headrace.retrieval.chunking import Chunker, Chunking
from headrace.retrieval.contracts import Generation, Scope
from headrace.retrieval.parsing import Limits, ParserPool, Raw, Reading, Refusal
from headrace.retrieval.parsing.read import read
from headrace.retrieval.sources import Directory, Source
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.retrieval.sync import Syncer, SyncSettings, SyncState
from headrace.testing import HashEmbedder
from headrace.types import Embedded, EmbedRequest

ALL = Scope(principals=None)
SMALL = Chunking(max_tokens=40, overlap_tokens=8, min_tokens=8, parent_tokens=120)


class InlineParser(ParserPool):
    """Parses in this process: tests of what comes after need no others."""

    async def parse(self, raw: Raw) -> Reading | Refusal:
        early = self.limits.refuse(len(raw.data))
        return early or read(
            raw, most_characters=self.limits.characters, most_unpacked=self.limits.unpacked_bytes
        )


class CountingEmbedder(HashEmbedder):
    """Knows every text it was asked for."""

    def __init__(self) -> None:
        super().__init__(dimensions=16)
        self.texts: list[str] = []
        self.before: Callable[[], None] = lambda: None

    async def embed(self, request: EmbedRequest) -> Embedded:
        self.before()
        made = await super().embed(request)
        self.texts += [text for text in request.inputs if isinstance(text, str)]
        return made


class Memory:
    """A listener: a cache that quoted everything."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def forgotten(self, documents: Sequence[str]) -> None:
        self.told += documents


@dataclass
class World:
    """A directory, its index and all that stands between."""

    files: Path
    home: Path
    store: Any
    state: SyncState
    embedder: CountingEmbedder
    syncer: Syncer
    source: Source
    memory: Memory = field(default_factory=Memory)

    def write(self, key: str, text: str, *, at_s: float = 1_700_000_000.0) -> None:
        path = self.files / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (at_s, at_s))

    async def sync(self) -> Any:
        self.embedder.texts.clear()
        return await self.syncer.sync(self.source)

    def outcomes(self) -> dict[str, str]:
        """Key → what became of it."""
        return {
            row.key: " ".join(filter(None, (row.outcome, row.reason)))
            for row in self.state.statuses()
        }


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    files: Path | None = None,
    source: Source | None = None,
    store: Callable[[Any], Any] = lambda inner: inner,
    state: Callable[[SyncState], SyncState] = lambda inner: inner,
    settings: SyncSettings | None = None,
    clock: Callable[[], float] = lambda: 2_000_000_000.0,
    limits: Limits | None = None,
) -> AsyncGenerator[World]:
    """What a folder holds: its index, opened or made anew, over the files beside it."""
    home = folder / "home"
    inner = await SqliteStore.open(home / "index")
    files = files or folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    table = SyncState.open(home / "sync.db")
    embedder, memory = CountingEmbedder(), Memory()

    async def sleep(seconds: float) -> None:
        assert seconds >= 0

    try:
        chunker = Chunker(SMALL, chunked.words, tokenizer="words")
        if not await inner.generations():
            card = embedder.card
            await inner.begin(
                Generation(
                    number=1,
                    embedder=card.name,
                    fingerprint=card.fingerprint,
                    dimensions=card.dimensions,
                    chunking=chunker.digest,
                )
            )
        syncer = Syncer(
            store(inner),
            embedder,
            chunker,
            InlineParser(limits=limits),
            state(table),
            settings=settings or SyncSettings(batch_documents=1, ahead=3),
            listeners=[memory],
            clock=clock,
            sleep=sleep,
        )
        yield World(
            files=files,
            home=home,
            store=inner,
            state=table,
            embedder=embedder,
            syncer=syncer,
            source=source or Directory("docs", files, clock=clock),
            memory=memory,
        )
    finally:
        table.close()
        await inner.close()


async def contents(store: Any) -> dict[str, Any]:
    """All that an index holds of documents: two with the same answer alike."""
    generation = await store.active()
    found: dict[str, Any] = {}
    async for row in store.documents(ALL):
        document = await store.document(row.id, ALL)
        chunks = await store.neighbours(row.id, 0, 1 << 30, ALL)
        vectors = await store.vectors_of(generation.number, [chunk.sha256 for chunk in chunks])
        found[row.id] = (
            (document.text, document.title, document.modified_s, document.media_type),
            None if row.readers is None else sorted(row.readers),
            json.dumps(dict(row.metadata), sort_keys=True),
            (row.superseded_by, row.conflicts),
            [(chunk, vectors[chunk.sha256]) for chunk in chunks],
        )
    return found
