"""Which generations a change has vectors for, and the vectors: reused where a chunk says the same.

Invariant: what goes into a generation was made by the model whose fingerprint that generation has.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from headrace.errors import Conflict, ModelNotFound
from headrace.retrieval.contracts import Generation, IndexStore
from headrace.types import Chunk, Embedder, EmbedRequest, Errand, Usage, total

_TEXTS_AT_ONCE = 256


class Made(NamedTuple):
    """Vectors of some texts."""

    by_text: Mapping[str, bytes]
    """`Chunk.sha256` → float32, of length 1."""
    embedded: int
    reused: int
    usage: Usage


class Model(NamedTuple):
    """A generation and the model that makes its vectors."""

    generation: Generation
    embedder: Embedder


def fingerprint_of(embedder: Embedder) -> str:
    """What tells its vectors from others'; a provider says no more than a name."""
    card = embedder.card
    return card.fingerprint or f"name:{card.name}"


def model_of(generation: Generation, errand: Errand) -> Model:
    """Raises: ModelNotFound; Conflict: The model of that name is another one now."""
    embedder = errand.embedder(generation.embedder)
    found = fingerprint_of(embedder)
    if found != generation.fingerprint:
        raise Conflict(
            f"the index was made with {generation.embedder!r} of fingerprint "
            f"{generation.fingerprint[:16]}, and the model of that name is {found[:16]} now; serve "
            "the one it was made with, or take the index over: headrace index migrate"
        )
    return Model(generation, embedder)


async def models_of(store: IndexStore, errand: Errand) -> list[Model]:
    """Of all generations that a change can have vectors for, the active one first.

    One that is being built or was kept, whose model is not here, is left out: `fill` brings what
    it lacks before it may become active.
    """
    active = await store.active()
    found = [model_of(active, errand)]
    for generation in await store.generations():
        if generation.number != active.number:
            try:
                found.append(model_of(generation, errand))
            except (ModelNotFound, Conflict):
                continue
    return found


async def make(store: IndexStore, model: Model, chunks: Iterable[Chunk], errand: Errand) -> Made:
    """Vectors of chunks in one generation; those that it has of the same text are taken."""
    texts = {chunk.sha256: chunk.embedded for chunk in chunks}
    have = dict(await store.vectors_of(model.generation.number, list(texts)))
    wanted = {sha: text for sha, text in texts.items() if sha not in have}
    made, usage = await embed(model.embedder, wanted, errand)
    return Made({**have, **made}, len(wanted), len(have), usage)


async def embed(
    embedder: Embedder, texts: Mapping[str, str], errand: Errand
) -> tuple[dict[str, bytes], Usage]:
    """Vectors of texts by their names."""
    names = list(texts)
    made: dict[str, bytes] = {}
    usages: list[Usage] = []
    for at in range(0, len(names), _TEXTS_AT_ONCE):
        batch = names[at : at + _TEXTS_AT_ONCE]
        inputs = tuple(texts[name] for name in batch)
        request = replace(_request(embedder, errand, "passage"), inputs=inputs)
        answer = await embedder.embed(request)
        usages.append(answer.usage)
        made.update(zip(batch, rows(answer.data, answer.dimensions), strict=True))
    return made, total(usages)


async def embed_query(embedder: Embedder, query: str, errand: Errand) -> tuple[bytes, Usage]:
    """The vector of a question."""
    answer = await embedder.embed(replace(_request(embedder, errand, "query"), inputs=(query,)))
    return rows(answer.data, answer.dimensions)[0], answer.usage


def rows(data: bytes, dimensions: int) -> Sequence[bytes]:
    """Each vector, of length 1; one of nothing but zeros stays."""
    matrix_ND = np.frombuffer(data, "<f4").reshape(-1, dimensions)
    length_N = np.linalg.norm(matrix_ND, axis=1, keepdims=True)
    unit_ND = (matrix_ND / np.where(length_N > 0, length_N, 1)).astype("<f4")
    return [row.tobytes() for row in unit_ND]


def joined(chunks: Sequence[Chunk], made: Made) -> bytes:
    """As `Entry.vectors` has them."""
    return b"".join(made.by_text[chunk.sha256] for chunk in chunks)


def _request(embedder: Embedder, errand: Errand, kind: str) -> EmbedRequest:
    card = embedder.card
    return EmbedRequest(
        model=card.name,
        inputs=(),
        prompt=kind if kind in card.prompts else "",
        truncate=True,  # a chunk's words are all in the keyword index
        caller=errand.caller,
        trace=errand.trace,
        trail=errand.trail,
    )
