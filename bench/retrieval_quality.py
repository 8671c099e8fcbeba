"""The default retriever beside keyword search, vectors and fixed fusions, on four question sets.

    pip install bm25s PyStemmer
    python bench/retrieval_quality.py --data ../shared/data --cache CACHE --out NAME.json

Every system searches the same texts with the same vectors (MiniLM by our engine) in one run:

bm25s      k1 1.2, b .75, its English stop words and the Snowball stemmer
FTS5       SQLite, `porter unicode61`, function words dropped, words joined by OR
MiniLM     exact cosine
RRF-60     reciprocal ranks; of FTS5 and of bm25s with MiniLM
convex     a share of the keyword list's scores, scaled to 0..1 over its best 100; of both lists
hybrid     `Retriever` on the embedded store, untuned, without reranking
reranked   the same with the learned ranker: the default

squad, scifact: public. functions, identifiers: the half of the standard library's modules that
nothing was learned from. nDCG@10, differences with paired 95 % intervals over clusters (article,
claim, file).
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from headrace.bench.results import write_result
from headrace.retrieval.measures import compare, hit, ndcg, reciprocal_rank
from headrace.retrieval.ranking.learned import Learned, shipped
from headrace.retrieval.ranking.terms import FUNCTION_WORDS, words
from headrace.types import SearchResult
from retrieval_learning import among, is_learned
from retrieval_runs import request, retriever
from retrieval_sets import QuestionSet, Rows, functions, identifiers, scifact, squad, vectors

DEPTH = 100
FORMS = ("{}", "where is {} used", "{} not found", "what does {} do", "error in {}")
Ranking = list[int]
Listed = list[tuple[int, float]]
"""Texts and scores, best first."""


def odd_half(of: QuestionSet, functions: QuestionSet) -> tuple[QuestionSet, list[int], list[int]]:
    """What nothing was learned from, and which texts and questions those are."""
    file_of = {at: asked.cluster for asked in functions.asked for at in asked.grades}
    kept = [at for at in range(len(of.texts)) if not is_learned(file_of[at])]
    found, chosen = among(of, kept)
    return found, kept, chosen


def sets(data: Path, cache: Path) -> list[tuple[QuestionSet, Rows, Rows]]:
    found: list[tuple[QuestionSet, Rows, Rows]] = []
    for of in (squad(data / "squad_v2_dev" / "articles.json.gz"), scifact(data / "scifact")):
        found.append((of, *vectors(of, cache)))
    code = functions()
    for of in (code, identifiers(code, FORMS)):
        texts, questions = vectors(of, cache)
        part, kept, chosen = odd_half(of, code)
        found.append((part, texts[kept], questions[chosen]))
    return found


def by_bm25s(of: QuestionSet) -> list[Listed]:
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=1.2, b=0.75)

    def split(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    index.index(split(of.texts), show_progress=False)
    found, scores = index.retrieve(
        split([a.query for a in of.asked]), k=min(DEPTH, len(of.texts)), show_progress=False
    )
    return [
        [(int(at), float(score)) for at, score in zip(*row, strict=True) if score > 0]
        for row in zip(found, scores, strict=True)
    ]


def by_fts5(of: QuestionSet) -> list[Listed]:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE t USING fts5(x, tokenize='porter unicode61')")
    database.executemany("INSERT INTO t(rowid, x) VALUES (?, ?)", enumerate(of.texts))
    sql = "SELECT rowid, -bm25(t) FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?"
    found: list[Listed] = []
    for asked in of.asked:
        every = list(dict.fromkeys(words(asked.query)))
        kept = [word for word in every if word not in FUNCTION_WORDS] or every
        match = " OR ".join(f'"{word}"' for word in kept)
        found.append(database.execute(sql, (match, DEPTH)).fetchall() if kept else [])
    database.close()
    return found


def by_vectors(texts: Rows, questions: Rows) -> list[Listed]:
    scores: NDArray[np.float32] = questions @ texts.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    best = np.take_along_axis(scores, order, 1)
    return [list(zip(*row, strict=True)) for row in zip(order.tolist(), best.tolist(), strict=True)]


def scaled(listed: Listed) -> dict[int, float]:
    if not listed:
        return {}
    low, high = listed[-1][1], listed[0][1]
    return {at: (score - low) / (high - low) if high > low else 1.0 for at, score in listed}


def convex(keyword: Listed, vector: Listed, share: float) -> Ranking:
    a, b = scaled(keyword), scaled(vector)
    return _ranked({at: share * a.get(at, 0) + (1 - share) * b.get(at, 0) for at in {**a, **b}})


def rrf(keyword: Listed, vector: Listed) -> Ranking:
    total: dict[int, float] = {}
    for listed in (keyword, vector):
        for rank, (at, _) in enumerate(listed, 1):
            total[at] = total.get(at, 0.0) + 1 / (60 + rank)
    return _ranked(total)


def _ranked(scores: Mapping[int, float]) -> Ranking:
    return sorted(scores, key=lambda at: (-scores[at], at))


def baselines(of: QuestionSet, texts: Rows, questions: Rows) -> dict[str, list[Ranking]]:
    vector = by_vectors(texts, questions)
    found = {"MiniLM": [[at for at, _ in listed] for listed in vector]}
    for name, keyword in (("bm25s", by_bm25s(of)), ("FTS5 porter", by_fts5(of))):
        pairs = list(zip(keyword, vector, strict=True))
        found[name] = [[at for at, _ in listed] for listed in keyword]
        found[f"RRF-60, {name}"] = [rrf(a, b) for a, b in pairs]
        for share in (0.3, 0.5, 0.7):
            found[f"convex {share}, {name}"] = [convex(a, b, share) for a, b in pairs]
    return found


async def ours(
    of: QuestionSet, texts: Rows, questions: Rows, learned: Learned
) -> tuple[dict[str, list[Ranking]], dict[str, float]]:
    found: dict[str, list[Ranking]] = {"hybrid": [], "reranked": []}
    taken: dict[str, list[float]] = {"hybrid": [], "reranked": []}
    with tempfile.TemporaryDirectory() as place:
        async with retriever(of, texts, questions, Path(place), learned) as way:
            for asked in of.asked:
                for name, rerank in (("hybrid", False), ("reranked", True)):
                    began = time.process_time()
                    answer = await way.search(request(of, asked.query, rerank=rerank))
                    taken[name].append(time.process_time() - began)
                    found[name].append(_texts(answer))
    return found, {name: 1e3 * float(np.median(values)) for name, values in taken.items()}


def _texts(answer: SearchResult) -> Ranking:
    return [int(passage.chunk.document) for passage in answer.passages]


def report(of: QuestionSet, rankings: Mapping[str, Sequence[Ranking]]) -> dict[str, Any]:
    clusters = [asked.cluster for asked in of.asked]
    gains = {
        name: [ndcg(r, a.grades) for r, a in zip(found, of.asked, strict=True)]
        for name, found in rankings.items()
    }
    relevant = [frozenset(asked.grades) for asked in of.asked]
    table = {
        name: {
            "ndcg@10": float(np.mean(gains[name])),
            "hit@1": float(np.mean([hit(r, w, 1) for r, w in zip(found, relevant, strict=True)])),
            "hit@10": float(np.mean([hit(r, w) for r, w in zip(found, relevant, strict=True)])),
            "mrr@10": float(
                np.mean([reciprocal_rank(r, w) for r, w in zip(found, relevant, strict=True)])
            ),
        }
        for name, found in rankings.items()
    }
    fixed = [name for name in rankings if name not in ("hybrid", "reranked")]
    best = max(fixed, key=lambda name: table[name]["ndcg@10"])
    return {
        "texts": len(of.texts),
        "questions": len(of.asked),
        "clusters": len(set(clusters)),
        "systems": table,
        "best of the others": best,
        "hybrid less the best": _difference(gains["hybrid"], gains[best], clusters),
        "reranked less hybrid": _difference(gains["reranked"], gains["hybrid"], clusters),
    }


def _difference(ours: Sequence[float], theirs: Sequence[float], clusters: Sequence[str]) -> Any:
    found = compare(ours, theirs, clusters)
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "verdict": found.verdict.value,
        "detectable": found.detectable,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="of vectors")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"learned from": shipped().provenance, "sets": {}}
    for of, texts, questions in sets(given.data, given.cache):
        rankings = baselines(of, texts, questions)
        mine, taken_ms = asyncio.run(ours(of, texts, questions, shipped()))
        result["sets"][of.name] = {
            **report(of, {**rankings, **mine}),
            "CPU ms a query, median": taken_ms,
        }
        print(of.name, result["sets"][of.name], flush=True)
    if given.out is not None:
        write_result(
            given.out,
            what="retrieval quality",
            arguments={
                "depth": DEPTH,
                "bm25s": version("bm25s"),
                "PyStemmer": version("PyStemmer"),
                "sqlite": sqlite3.sqlite_version,
            },
            result=result,
        )


if __name__ == "__main__":
    main()
