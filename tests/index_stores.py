"""Stores of indexes for tests, and small documents with vectors to put into them."""

import contextlib
import hashlib
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.retrieval.contracts import Entry, Generation, IndexStore, Marks, Scope
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types import Chunk, SourceDocument
from headrace.types.retrieval import Scalar
from index_postgres import opened_postgres

KINDS = ("sqlite", "postgres")
"""That pass the conformance suite; a server's store skips where there is none."""
ALL = Scope(principals=None)
DIMENSIONS = 32


@contextlib.asynccontextmanager
async def opened(kind: str, directory: Path) -> AsyncGenerator[IndexStore]:
    """An empty store, or what was left in the directory by one before."""
    if kind == "postgres":
        async with opened_postgres(directory) as server:
            yield server
        return
    assert kind == "sqlite", kind
    store = await SqliteStore.open(directory / "index")
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def begun(kind: str, directory: Path) -> AsyncGenerator[IndexStore]:
    """An empty store with generation 1."""
    async with opened(kind, directory) as store:
        await store.begin(generation(1))
        yield store


def generation(number: int, *, dimensions: int = DIMENSIONS) -> Generation:
    return Generation(
        number=number, embedder=f"model-{number}", fingerprint=f"f{number}", dimensions=dimensions
    )


def vector(text: str, *, seed: int = 1, dimensions: int = DIMENSIONS) -> bytes:
    """A made vector of length 1: texts that share words are near each other."""
    row = np.zeros(dimensions)
    for word in text.lower().split():
        digest = hashlib.sha256(f"{seed} {word}".encode()).digest()
        row += np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=dimensions)
    if not row.any():
        row[0] = 1
    return (row / np.linalg.norm(row)).astype("<f4").tobytes()


def entry(
    id: str,
    *parts: str,
    title: str = "",
    source: str = "",
    modified_s: float = 0.0,
    readers: frozenset[str] | None = None,
    metadata: Mapping[str, Scalar] | None = None,
    headings: tuple[str, ...] = (),
    generations: Sequence[int] = (1,),
    marks: Marks | None = None,
) -> Entry:
    """A document of these parts, each a chunk, one line each."""
    chunks: list[Chunk] = []
    at = 0
    for i, part in enumerate(parts):
        chunks.append(
            Chunk(
                document=id,
                ordinal=i,
                start=at,
                end=at + len(part),
                text=part,
                headings=headings,
                tokens=len(part.split()),
            )
        )
        at += len(part) + 1
    return Entry(
        document=SourceDocument(
            id=id,
            text="\n".join(parts),
            source=source,
            title=title,
            modified_s=modified_s,
            readers=readers,
            metadata=metadata or {},
        ),
        chunks=tuple(chunks),
        vectors={
            number: b"".join(vector(chunk.embedded, seed=number) for chunk in chunks)
            for number in generations
        },
        marks=marks,
    )


WORDS = tuple(
    re.findall(
        r"\w+",
        "river mill wheel stone water grain flour sack cart road bridge town market price coin "
        "ledger clerk paper ink seal letter horse barn field wheat rye oat barley harvest storm",
    )
)


def passage(draws: random.Random, length: int = 12) -> str:
    """Words at random, few of them often."""
    return " ".join(WORDS[int(len(WORDS) * draws.random() ** 2)] for _ in range(length))
