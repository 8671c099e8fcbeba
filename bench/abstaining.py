"""What a bar on relevance saves: calibrated on half of the articles, reported on the other half.

The index holds half of each side's articles. Three kinds of questions: answerable ones of these,
unanswerable ones of these (SQuAD v2's, worded to look answerable), and questions about articles
that the index does not hold.

    python bench/abstaining.py ../shared/data --out bench/results/DATE-abstaining.json
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.app import MINILM, open_embedder
from headrace.bench.results import write_result
from headrace.config import EmbeddingSettings, Settings
from headrace.data.grounded import Passage
from headrace.data.sources import id_hash
from headrace.data.squad import passages
from headrace.retrieval.answering.abstaining import Trial, calibrate, relevance
from headrace.types import Chunk, Embedder, EmbedRequest, Integrity, SearchResult
from headrace.types import Passage as Found

_AT_ONCE = 64


async def vectors(embedder: Embedder, texts: list[str]) -> NDArray[np.float32]:
    made: list[NDArray[np.float32]] = []
    for at in range(0, len(texts), _AT_ONCE):
        request = EmbedRequest(model="", inputs=tuple(texts[at : at + _AT_ONCE]), truncate=True)
        answer = await embedder.embed(request)
        made.append(np.frombuffer(answer.data, np.float32).reshape(-1, answer.dimensions))
    return np.concatenate(made)


def result(cosines: NDArray[np.float32]) -> SearchResult:
    best = sorted((float(value) for value in cosines), reverse=True)[:3]
    found = [
        Found(
            chunk=Chunk(document=str(rank), ordinal=0, start=0, end=1, text="x"),
            title="",
            source="",
            modified_s=0.0,
            integrity=Integrity.UNTRUSTED,
            metadata={},
            score=value,
            features={"cosine": value},
        )
        for rank, value in enumerate(best)
    ]
    return SearchResult(passages=tuple(found), snapshot="", matching=len(cosines))


async def side(embedder: Embedder, texts: list[Passage], each: int) -> dict[str, list[float]]:
    """Relevance of questions by kind; every second article is in the index."""
    names = sorted({passage.article for passage in texts})
    held = {name for at, name in enumerate(names) if at % 2 == 0}
    index = await vectors(embedder, [p.text for p in texts if p.article in held])
    kinds: dict[str, list[tuple[str, str]]] = {
        "answerable": [],
        "unanswerable": [],
        "elsewhere": [],
    }
    for passage in texts:
        for id, question, answers in passage.asked:
            kind = "answerable" if answers else "unanswerable"
            if passage.article not in held:
                kind = "elsewhere"
            kinds[kind].append((id, question))
    found: dict[str, list[float]] = {}
    for kind, questions in kinds.items():
        chosen = sorted(questions, key=lambda item: id_hash(item[0]))[:each]
        asked = await vectors(embedder, [question for _, question in chosen])
        found[kind] = [relevance(result(index @ row)) for row in asked]
    return found


async def run(data: Path, each: int, at_most: float) -> dict[str, Any]:
    texts = passages(data / "squad_v2_dev" / "articles.json.gz")
    names = sorted({passage.article for passage in texts})
    halves = [[p for p in texts if names.index(p.article) % 2 == half] for half in (0, 1)]
    settings = Settings(embeddings=EmbeddingSettings(path=MINILM))
    async with open_embedder(settings) as embedder:
        dev, test = [await side(embedder, half, each) for half in halves]
    table: dict[str, Any] = {}
    for bad in ("unanswerable", "elsewhere"):
        trials = [Trial(relevance=value, answerable=True) for value in dev["answerable"]]
        trials += [Trial(relevance=value, answerable=False) for value in dev[bad]]
        bar = calibrate(trials, at_most=at_most)
        table[bad] = {
            "bar": bar.below,
            "calibrated_on": bar.trials,
            "test_turned_away": float(np.mean(np.array(test["answerable"]) < bar.below)),
            "test_saved": float(np.mean(np.array(test[bad]) < bar.below)),
        }
    return {"at_most": at_most, "questions_of_each_kind": each, **table}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=400)
    parser.add_argument("--at-most", type=float, default=0.02)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    made = asyncio.run(run(given.data, given.each, given.at_most))
    print(json.dumps(made, indent=2))
    if given.out is not None:
        asked = {"each": given.each, "at_most": given.at_most}
        write_result(given.out, what="abstaining", arguments=asked, result=made)


if __name__ == "__main__":
    main()
