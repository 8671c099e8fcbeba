"""A question set in the embedded store, asked through the retriever; shared by bench scripts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from headrace.retrieval.contracts import Entry, Generation
from headrace.retrieval.ranking.learned import Learned
from headrace.retrieval.ranking.retriever import Retriever
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types import (
    Chunk,
    Embedded,
    EmbedderCard,
    EmbedRequest,
    SearchRequest,
    SourceDocument,
    Usage,
)
from retrieval_sets import QuestionSet, Rows

_AT_ONCE = 500


class KnownVectors:
    """An `Embedder` of texts whose vectors were made before."""

    def __init__(self, texts: Sequence[str], rows_ND: Rows) -> None:
        self.card = EmbedderCard(
            name="known", dimensions=rows_ND.shape[1], max_tokens=0, created_s=0, fingerprint="k"
        )
        self._at = {text: at for at, text in enumerate(texts)}
        self._rows_ND = rows_ND

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        return (0,) * len(request.inputs)

    async def embed(self, request: EmbedRequest) -> Embedded:
        at = [self._at[text] for text in request.inputs if isinstance(text, str)]
        data = np.ascontiguousarray(self._rows_ND[at], "<f4").tobytes()
        return Embedded(data=data, dimensions=self.card.dimensions, usage=Usage())


@asynccontextmanager
async def retriever(
    of: QuestionSet, texts_ND: Rows, questions_ND: Rows, directory: Path, learned: Learned
) -> AsyncIterator[Retriever]:
    """Every text a document of one chunk, named by its position."""
    store = await SqliteStore.open(directory / of.name, synchronous="normal")
    try:
        await store.begin(
            Generation(number=1, embedder="known", fingerprint="k", dimensions=texts_ND.shape[1])
        )
        for begin in range(0, len(of.texts), _AT_ONCE):
            await store.put(
                [
                    _entry(at, of.texts[at], texts_ND[at])
                    for at in range(begin, min(begin + _AT_ONCE, len(of.texts)))
                ]
            )
        queries = [asked.query for asked in of.asked]
        yield Retriever(store, KnownVectors(queries, questions_ND), learned=learned)
    finally:
        await store.close()


def _entry(at: int, text: str, row_D: Rows) -> Entry:
    unit_D = (row_D / np.linalg.norm(row_D)).astype("<f4")
    return Entry(
        document=SourceDocument(id=str(at), text=text),
        chunks=(Chunk(document=str(at), ordinal=0, start=0, end=len(text), text=text),),
        vectors={1: unit_D.tobytes()},
    )


def request(of: QuestionSet, query: str, k: int = 10, *, rerank: bool = True) -> SearchRequest:
    return SearchRequest(index=of.name, query=query, k=k, principals=None, rerank=rerank)
