"""A question to one snapshot → what was found, and why there is no more of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import InvalidParameter
from headrace.retrieval.contracts import Found, Scope
from headrace.retrieval.stores.postgres import keyword as words
from headrace.retrieval.stores.postgres import nearest as graphs
from headrace.retrieval.stores.postgres import single
from headrace.retrieval.stores.postgres.keyword import Question, Scored
from headrace.retrieval.stores.postgres.rows import passages
from headrace.retrieval.stores.postgres.schema import vectors_table
from headrace.retrieval.stores.postgres.scope import Parameters, Sight, see
from headrace.retrieval.stores.postgres.writing import dimensions_of

if TYPE_CHECKING:
    from asyncpg import Connection

MAX_K = 10_000
NOTHING = "no chunk passes the filter and may be read by who asks"


def check_k(k: int) -> None:
    """Raises: InvalidParameter."""
    if not 1 <= k <= MAX_K:
        raise InvalidParameter(f"k = {k} must be between 1 and {MAX_K}", param="k")


async def keyword(connection: "Connection", query: str, k: int, scope: Scope) -> Found:
    """The k best by BM25."""
    sight = await see(connection, scope)
    question = await words.ask(connection, query, sight)
    found = await words.best(connection, question, k, sight)
    few = "" if len(found) >= k else _few_words(question, sight, len(found))
    return await _found(connection, found, sight, few, exact=True)


async def nearest(
    connection: "Connection",
    generation: int,
    vector: bytes,
    k: int,
    scope: Scope,
    *,
    exact_below: int,
) -> Found:
    """The k best by cosine."""
    sight = await see(connection, scope)
    dimensions = await _check_vector(connection, generation, vector)
    near = await graphs.nearest(
        connection, generation, dimensions, vector, k, sight, exact_below=exact_below
    )
    few = "" if len(near.found) >= k else await _few(connection, generation, sight)
    return await _found(connection, near.found, sight, few, exact=near.exact)


async def candidates(
    connection: "Connection",
    generation: int,
    query: str,
    vector: bytes,
    k: int,
    scope: Scope,
    *,
    exact_below: int,
) -> Found:
    """The k best of either kind, each with both scores."""
    sight = await see(connection, scope)
    dimensions = await _check_vector(connection, generation, vector)
    question = await words.ask(connection, query, sight)
    by_word = await words.best(connection, question, k, sight)
    near = await graphs.nearest(
        connection, generation, dimensions, vector, k, sight, exact_below=exact_below
    )
    chunks = list(dict.fromkeys(one.chunk for one in (*by_word, *near.found)))
    bm25 = await words.scores(connection, question, chunks, sight)
    cosine = await graphs.cosines(connection, generation, vector, chunks)
    word_ranks = {one.chunk: rank for rank, one in enumerate(by_word, 1)}
    near_ranks = {one.chunk: rank for rank, one in enumerate(near.found, 1)}
    found = await passages(connection, [Scored(chunk, 0.0) for chunk in chunks])
    featured = [
        replace(
            passage,
            features=_features(
                bm25.get(chunk, 0.0),
                cosine.get(chunk, 0.0),
                word_ranks.get(chunk),
                near_ranks.get(chunk),
            ),
        )
        for chunk, passage in found.items()
    ]
    featured.sort(key=lambda p: (p.chunk.document, p.chunk.ordinal))
    return Found(
        passages=tuple(featured),
        matching=sight.matching,
        snapshot=sight.snapshot,
        shortfall="" if len(featured) >= k else await _few(connection, generation, sight),
        exact=near.exact,
    )


def _features(
    bm25: float, cosine: float, word_rank: int | None, near_rank: int | None
) -> Mapping[str, float]:
    features: dict[str, float] = {"bm25": bm25, "cosine": cosine}
    if word_rank is not None:
        features["bm25_rank"] = word_rank
    if near_rank is not None:
        features["cosine_rank"] = near_rank
    return features


async def _check_vector(connection: "Connection", generation: int, vector: bytes) -> int:
    rows = await connection.fetch("SELECT number, dimensions FROM generations")
    dimensions = dimensions_of(generation, {row[0]: row[1] for row in rows})
    if len(vector) != 4 * dimensions:
        raise InvalidParameter(
            f"the question's vector has {len(vector)} bytes; the generation's have 4 x "
            f"{dimensions}",
            param="vector",
        )
    if not np.isfinite(np.frombuffer(vector, "<f4")).all():
        raise InvalidParameter("the question's vector has numbers that are none", param="vector")
    return dimensions


async def _found(
    connection: "Connection",
    scored: Sequence[Scored],
    sight: Sight,
    shortfall: str,
    *,
    exact: bool,
) -> Found:
    found = list((await passages(connection, scored)).values())
    found.sort(key=lambda p: (-p.score, p.chunk.document, p.chunk.ordinal))
    return Found(
        passages=tuple(found),
        matching=sight.matching,
        snapshot=sight.snapshot,
        shortfall=shortfall,
        exact=exact,
    )


def _few_words(question: Question, sight: Sight, found: int) -> str:
    if not sight.matching:
        return NOTHING
    if not question.asked:
        return "the question has no words"
    return f"{found} of {sight.matching} chunks in scope have a word of the question"


async def _few(connection: "Connection", generation: int, sight: Sight) -> str:
    if not sight.matching:
        return NOTHING
    parameters = Parameters()
    with_vector = await single.value(
        connection,
        f"SELECT count(*) FROM {vectors_table(generation)} v JOIN documents d "
        f"ON d.number = v.document WHERE {sight.where(parameters)}",
        *parameters.values,
    )
    lacking = sight.matching - with_vector
    without = f", and {lacking} of them have no vector of this generation yet" if lacking else ""
    return f"{sight.matching} chunks are in scope{without}"
