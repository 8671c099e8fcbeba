"""A question to one state of an index → what was found, and why there is no more of it."""

import sqlite3
from dataclasses import dataclass

import numpy as np

from headrace.errors import InvalidParameter
from headrace.kernels.scan import Floats, Places
from headrace.retrieval.contracts import Found
from headrace.retrieval.stores import postings, records, words
from headrace.retrieval.stores.vectors import Matrix
from headrace.retrieval.stores.view import Sight, State

MAX_K = 10_000
_MORE = 20
"""So many more are compared in full precision, beside twice as many as are asked for."""
NOTHING = "no chunk passes the filter and may be read by who asks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """All that a search needs, of one state, read under one transaction."""

    connection: sqlite3.Connection
    state: State
    sight: Sight
    matrix: Matrix | None
    snapshot: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """Places of chunks, best first."""

    places: Places
    scores: Floats
    exact: bool = True


def check_k(k: int) -> None:
    """Raises: InvalidParameter."""
    if not 1 <= k <= MAX_K:
        raise InvalidParameter(f"k = {k} must be between 1 and {MAX_K}", param="k")


def vector_of(data: bytes, dimensions: int) -> Floats:
    """A question's vector.

    Raises: InvalidParameter.
    """
    if len(data) != 4 * dimensions:
        raise InvalidParameter(
            f"the question's vector has {len(data)} bytes; the generation's have 4 x {dimensions}",
            param="vector",
        )
    vector = np.frombuffer(data, "<f4")
    if not np.isfinite(vector).all():
        raise InvalidParameter("the question's vector has numbers that are none", param="vector")
    return vector


def keyword(moment: Moment, query: str, k: int) -> Found:
    """The k best by BM25."""
    terms = words.query_terms(query)
    scores = postings.score(moment.state.runs, terms, moment.sight.seen)
    places = postings.best(scores, moment.sight.allowed, k)
    ranked = Ranked(places=places, scores=scores[places])
    return _found(
        moment, ranked, "" if len(places) >= k else _few_words(moment, terms, len(places))
    )


def nearest(moment: Moment, vector: bytes, k: int) -> Found:
    """The k best by cosine."""
    assert moment.matrix is not None
    matrix, query = moment.matrix, vector_of(vector, moment.matrix.dimensions)
    ranked = _nearest(moment, matrix, query, k)
    found = len(ranked.places)
    return _found(moment, ranked, "" if found >= k else _few(moment, matrix))


def candidates(moment: Moment, query: str, vector: bytes, k: int) -> Found:
    """The k best of either kind, each with both scores."""
    assert moment.matrix is not None
    matrix, asked = moment.matrix, vector_of(vector, moment.matrix.dimensions)
    terms = words.query_terms(query)
    scores = postings.score(moment.state.runs, terms, moment.sight.seen)
    by_word = postings.best(scores, moment.sight.allowed, k)
    near = _nearest(moment, matrix, asked, k)
    places = np.union1d(by_word, near.places)
    cosines = _cosines(moment, matrix, asked, places).tolist()
    bm25 = scores[places].tolist()
    word_rank = {place: i for i, place in enumerate(by_word.tolist(), 1)}
    near_rank = {place: i for i, place in enumerate(near.places.tolist(), 1)}
    features = [
        _features(bm25[i], cosines[i], word_rank.get(place), near_rank.get(place))
        for i, place in enumerate(places.tolist())
    ]
    rows = moment.state.rows[places].tolist()
    featured = records.passages(moment.connection, rows, [0.0] * len(rows), features)
    featured.sort(key=lambda p: (p.chunk.document, p.chunk.ordinal))
    return Found(
        passages=tuple(featured),
        matching=moment.sight.matching,
        snapshot=moment.snapshot,
        shortfall="" if len(featured) >= k else _few(moment, matrix),
        exact=near.exact,
    )


def _nearest(moment: Moment, matrix: Matrix, query: Floats, k: int) -> Ranked:
    """The k nearest: more than that by bytes, those then by the record's own numbers."""
    (places, _), exact = matrix.nearest(query, moment.sight.allowed, 2 * k + _MORE)
    cosines = _cosines(moment, matrix, query, places)
    order = np.lexsort((places, -cosines))[:k]
    return Ranked(places=places[order], scores=cosines[order], exact=exact)


def _cosines(moment: Moment, matrix: Matrix, query: Floats, places: Places) -> Floats:
    """Of given chunks, in full precision; 0 where there is no vector."""
    rows = moment.state.rows[places]
    cosines = np.zeros(len(rows), np.float32)
    found = records.vectors(moment.connection, matrix.generation, rows.tolist())
    if found:
        chunks = np.fromiter((chunk for chunk, _ in found), np.int64, len(found))
        data = np.frombuffer(b"".join([data for _, data in found]), "<f4")
        values = data.reshape(len(found), matrix.dimensions) @ query
        order = np.argsort(rows)
        cosines[order[np.searchsorted(rows, chunks, sorter=order)]] = values
    return cosines


def _features(
    bm25: float, cosine: float, word_rank: int | None, near_rank: int | None
) -> dict[str, float]:
    features = {"bm25": bm25, "cosine": cosine}
    if word_rank is not None:
        features["bm25_rank"] = word_rank
    if near_rank is not None:
        features["cosine_rank"] = near_rank
    return features


def _found(moment: Moment, ranked: Ranked, shortfall: str) -> Found:
    passages = records.passages(
        moment.connection, moment.state.rows[ranked.places].tolist(), ranked.scores.tolist()
    )
    passages.sort(key=lambda p: (-p.score, p.chunk.document, p.chunk.ordinal))
    return Found(
        passages=tuple(passages),
        matching=moment.sight.matching,
        snapshot=moment.snapshot,
        shortfall=shortfall,
        exact=ranked.exact,
    )


def _few_words(moment: Moment, terms: list[int], found: int) -> str:
    matching = moment.sight.matching
    if not matching:
        return NOTHING
    if not terms:
        return "the question has no words"
    return f"{found} of {matching} chunks in scope have a word of the question"


def _few(moment: Moment, matrix: Matrix) -> str:
    matching = moment.sight.matching
    if not matching:
        return NOTHING
    lacking = int(np.count_nonzero(moment.sight.allowed & ~matrix.has))
    without = f", and {lacking} of them have no vector of this generation yet" if lacking else ""
    return f"{matching} chunks are in scope{without}"
