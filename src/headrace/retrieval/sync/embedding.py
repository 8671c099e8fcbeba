"""Chunks → vectors of length 1: those that are there already, and the rest asked for in batches.

Batches are of texts of about one length, so that an embedder pads little; only so many are on their
way at a time. What may succeed when it is tried again is tried again, a bounded number of times.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.errors import Conflict, HeadraceError, ServiceError, UpstreamError
from headrace.retrieval.contracts import Generation, IndexStore
from headrace.types import Chunk, Embedder, EmbedRequest, Priority

_PASSAGE_PROMPTS = ("passage", "document")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """Vectors of chunks by `Chunk.sha256`, and which of them were made of a text cut short."""

    of: Mapping[str, bytes]
    cut: frozenset[str]
    embedded: int


class Kept:
    """Vectors of what was replaced or will be: it may turn up elsewhere in the same run."""

    def __init__(self, limit_bytes: int) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._limit = limit_bytes

    def add(self, vectors: Mapping[str, bytes]) -> None:
        for sha256, data in vectors.items():
            if sha256 not in self._held:
                self._held[sha256] = data
                self._bytes += len(data) + 128
        while self._bytes > self._limit:
            _, data = self._held.popitem(last=False)
            self._bytes -= len(data) + 128

    def find(self, sha256: Sequence[str]) -> dict[str, bytes]:
        return {one: self._held[one] for one in sha256 if one in self._held}


class Embedding:
    """The vectors of one index' active generation."""

    def __init__(
        self,
        store: IndexStore,
        embedder: Embedder,
        *,
        batch: int,
        attempts: int,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._batch, self._attempts = batch, attempts
        self._sleep = sleep

    async def generation(self) -> Generation:
        """The active one. Raises: Conflict: Its vectors are of another embedder."""
        active = await self._store.active()
        card = self._embedder.card
        if active.fingerprint != card.fingerprint:
            raise Conflict(
                f"the index' active generation {active.number} has vectors of {active.embedder} "
                f"({active.fingerprint}); {card.name} ({card.fingerprint}) makes others: migrate "
                "the index, or sync with the embedder it has"
            )
        return active

    async def vectors(self, generation: Generation, chunks: Sequence[Chunk], kept: Kept) -> Vectors:
        """Of all chunks; only what no document of the index says is embedded."""
        wanted = {chunk.sha256: chunk.embedded for chunk in chunks}
        found = dict(await self._store.vectors_of(generation.number, list(wanted)))
        found |= kept.find([one for one in wanted if one not in found])
        missing = sorted((one for one in wanted if one not in found), key=lambda s: len(wanted[s]))
        cut: set[str] = set()
        for at in range(0, len(missing), self._batch):
            part = missing[at : at + self._batch]
            rows, short = await self._embed(generation, [wanted[one] for one in part])
            found |= dict(zip(part, rows, strict=True))
            cut |= {part[place] for place in short}
        return Vectors(of=found, cut=frozenset(cut), embedded=len(missing))

    async def _embed(
        self, generation: Generation, texts: Sequence[str]
    ) -> tuple[list[bytes], tuple[int, ...]]:
        card = self._embedder.card
        request = EmbedRequest(
            model=card.name,
            inputs=tuple(texts),
            prompt=next((name for name in _PASSAGE_PROMPTS if name in card.prompts), ""),
            dimensions=None if generation.dimensions == card.dimensions else generation.dimensions,
            truncate=True,  # sizes are the chunker's, but a document must not stop for one of them
            priority=Priority.BATCH,
        )
        for attempt in range(1, self._attempts + 1):
            try:
                made = await self._embedder.embed(request)
                break
            except HeadraceError as error:
                if not error.retryable or attempt == self._attempts:
                    raise
                said = error.retry_after_s if isinstance(error, ServiceError) else None
                await self._sleep(said if said is not None else min(0.5 * 2**attempt, 30.0))
        else:
            raise AssertionError("the last attempt raises")
        if made.count != len(texts) or made.dimensions != generation.dimensions:
            raise UpstreamError(
                f"{card.name} answered {made.count} vectors of {made.dimensions} numbers for "
                f"{len(texts)} texts; the index has {generation.dimensions}"
            )
        return _normalized(made.data, made.dimensions), made.truncated


def _normalized(data: bytes, dimensions: int) -> list[bytes]:
    rows = np.frombuffer(data, "<f4").reshape(-1, dimensions)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    off = np.abs(lengths - 1.0) > 1e-5
    if off.any():
        rows = np.where(off & (lengths > 0), rows / np.where(lengths > 0, lengths, 1.0), rows)
    return [row.astype("<f4").tobytes() for row in rows]
