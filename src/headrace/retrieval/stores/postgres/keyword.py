"""BM25 in PostgreSQL, whose own ranks are not: words of a question → chunks by score.

The GIN index finds the chunks, `terms` says how many chunks of each audience have a word, and how
often a chunk has it is read out of `ts_rank`: for one lexeme and equal weights that is the sum of
1/i² over its positions (divided by π²/6), which grows with their number and so tells it. All of it
is C inside the server; `tests` hold it to the plain formula and every count from 0 to 254.

A question of many words would score nearly every chunk, for one of them is always frequent. So the
rare words are searched first. When the k-th best of those scores more than all other words together
could give, no other chunk can enter (Turtle and Flood, "Query evaluation: strategies and
optimizations", 1995); else more words are. The k best are exact in any case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headrace.retrieval.stores.postgres.codecs import IN_TEXT, MAX_COUNT, lexeme
from headrace.retrieval.stores.postgres.scope import Parameters, Sight
from headrace.retrieval.stores.postings import K1, B
from headrace.retrieval.stores.words import query_terms

if TYPE_CHECKING:
    from asyncpg import Connection

_FIRST = 2_000
"""Chunks that the first try may score; each further one eight times as many."""


class Scored(NamedTuple):
    chunk: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The words of a question that some readable chunk has, rarest first."""

    lexemes: Sequence[str]
    weights: Sequence[float]
    """The most that each can give to a score."""
    chunks: Sequence[int]
    """That have it."""
    asked: int
    """Words that it had, found or not."""


def _bounds() -> list[float]:
    """Between the ranks of n - 1 and of n positions, in the server's own single precision."""
    steps = np.float32(1) / (np.arange(1, MAX_COUNT + 1, dtype=np.float32) ** 2)
    sums = np.cumsum(steps, dtype=np.float32) / np.float32(1.64493406685)
    below = np.concatenate((np.zeros(1, np.float32), sums[:-1]))
    return [float(x) for x in (below.astype(np.float64) + sums) / 2]


_BOUNDS = _bounds()
_EQUAL = [1.0, 1.0, 1.0, 1.0]


async def ask(connection: "Connection", query: str, sight: Sight) -> Question:
    """What the index knows of a question's words, counted over what the scope may read."""
    wanted = [lexeme(hash) for hash in query_terms(query)]
    rows = await connection.fetch(
        "SELECT word, sum(chunks)::bigint AS n FROM terms WHERE word = ANY($1) AND "
        "($2::integer[] IS NULL OR audience = ANY($2)) GROUP BY word HAVING sum(chunks) > 0 "
        "ORDER BY n, word",
        wanted,
        None if sight.all_audiences else list(sight.audiences),
    )
    return Question(
        lexemes=[row[0] for row in rows],
        weights=[_weight(row[1], sight.readable) for row in rows],
        chunks=[row[1] for row in rows],
        asked=len(wanted),
    )


def _weight(having: int, of: int) -> float:
    return (K1 + 1) * log1p((of - having + 0.5) / (having + 0.5))


async def best(
    connection: "Connection", question: Question, k: int, sight: Sight
) -> Sequence[Scored]:
    """The k best chunks of a scope, best first, the earlier where they tie."""
    budget, last = _FIRST, len(question.lexemes)
    searched = 0
    found: Sequence[Scored] = ()
    while searched < last:
        searched = _affordable(question, budget, searched)
        found = await _search(connection, question, searched, k, sight)
        if len(found) == k and found[-1].score >= sum(question.weights[searched:]):
            break
        budget *= 8
    return found


def _affordable(question: Question, budget: int, searched: int) -> int:
    """How many of the rarest words have so few chunks; one more than before at least."""
    total, count = 0, 0
    for chunks in question.chunks:
        total += chunks
        if total > budget and count > searched:
            break
        count += 1
    return count


async def _search(
    connection: "Connection", question: Question, words: int, k: int, sight: Sight
) -> Sequence[Scored]:
    parameters = Parameters()
    any_of = parameters.add(" | ".join(f"'{word}'" for word in question.lexemes[:words]))
    where = f"w.words @@ {any_of}::text::tsquery"
    source = "words w"
    if not sight.everything:
        source = "words w JOIN documents d ON d.number = w.document"
        where += f" AND {sight.where(parameters)}"
    statement = _scores(question, source, where, sight, parameters)
    limit = parameters.add(k)
    rows = await connection.fetch(
        f"{statement} ORDER BY score DESC, chunk LIMIT {limit}", *parameters.values
    )
    return [Scored(row[0], row[1]) for row in rows]


async def scores(
    connection: "Connection", question: Question, chunks: Sequence[int], sight: Sight
) -> dict[int, float]:
    """BM25 of these chunks; 0 = none of the words."""
    if not question.lexemes:
        return dict.fromkeys(chunks, 0.0)
    parameters = Parameters()
    where = f"w.chunk = ANY({parameters.add(list(chunks))}::bigint[])"
    statement = _scores(question, "words w", where, sight, parameters)
    return {row[0]: row[1] for row in await connection.fetch(statement, *parameters.values)}


def _scores(
    question: Question, source: str, where: str, sight: Sight, parameters: Parameters
) -> str:
    """SELECT chunk, score: for each word weight * n / (n + norm), as weight * (1 - norm / ...)."""
    bounds = parameters.add(_BOUNDS)
    equal = parameters.add(_EQUAL)
    least = parameters.add(IN_TEXT * K1 * (1 - B))
    slope = parameters.add(IN_TEXT * K1 * B / max(sight.mean_length, 1e-9))
    terms: list[str] = []
    for word, weight in zip(question.lexemes, question.weights, strict=True):
        rank = f"ts_rank({equal}::real[], s.words, {parameters.add(word)}::text::tsquery)"
        count = f"width_bucket({rank}::float8, {bounds}::float8[])"
        terms.append(f"{parameters.add(weight)}::float8 * (1 - s.norm / (s.norm + {count}))")
    norm = f"{least}::float8 + {slope}::float8 * w.length AS norm"
    return (
        f"SELECT s.chunk, {' + '.join(terms)} AS score FROM "
        f"(SELECT w.chunk, w.words, {norm} FROM {source} WHERE {where}) s"
    )
