"""Exact match, F1 and citation support of a model's answers to SQuAD questions, through the engine.

Each question is asked of the paragraph that it was written for, cut, among cuts of others of its
article, packed and checked as a route with context does it. Half of the questions have no answer in
their sources. The model is asked greedily, in the form that sprout is tuned on, and only about the
articles that sprout's recipe sets aside: it was trained on the others.

    python bench/grounded_answers.py ../shared/data --questions 300 \\
        --out bench/results/DATE-grounded-answers.json
"""

import argparse
import asyncio
import json
import re
import string
import time
from collections import Counter
from pathlib import Path
from typing import Any

from headrace.app import bundled_model
from headrace.bench.results import write_result
from headrace.config import EngineSettings, Settings
from headrace.data.grounded import Question, from_passages
from headrace.data.sources import id_hash, is_held_out
from headrace.data.squad import passages
from headrace.engine.chat import EngineChat
from headrace.engine.client import EngineClient
from headrace.retrieval.answering.context import WithContext
from headrace.retrieval.answering.options import Answering
from headrace.retrieval.answering.styles import StyleName
from headrace.retrieval.packing import Rendering
from headrace.tokens import ChatTemplate, Tokenizer
from headrace.training.recipes.sprout_plan import default
from headrace.types import (
    ChatRequest,
    Chunk,
    Integrity,
    Message,
    ModelCard,
    Passage,
    Role,
    SamplingParams,
    SearchRequest,
    SearchResult,
    TextPart,
    collect,
)

SETTINGS = Settings(engine=EngineSettings(threads=1, kv_cache_bytes=32 << 20))
_AT_ONCE = 8
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal(text: str) -> list[str]:
    """SQuAD's own normalisation: small letters, no articles, no punctuation."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


def f1(said: str, accepted: str) -> float:
    """Of words, as SQuAD counts it."""
    one, other = normal(said), normal(accepted)
    common = sum((Counter(one) & Counter(other)).values())
    if not common:
        return float(one == other)
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall)


def found(question: Question) -> SearchResult:
    """The question's sources as an index would have found them."""
    made = [
        Passage(
            chunk=Chunk(
                document=f"{question.id}/{number}", ordinal=0, start=0, end=len(text), text=text
            ),
            title="",
            source="",
            modified_s=0.0,
            integrity=Integrity.UNTRUSTED,
            metadata={},
            score=1.0 / number,
        )
        for number, text in enumerate(question.sources, start=1)
    ]
    return SearchResult(passages=tuple(made), snapshot="squad", matching=len(made))


async def answered(backend: EngineChat, counter: Rendering, question: Question) -> dict[str, Any]:
    """One question, asked and judged."""

    async def search(_: SearchRequest) -> SearchResult:
        return found(question)

    stage = WithContext(
        backend,
        Answering(
            index="squad",
            search=search,
            style=StyleName.QUOTE,
            context_tokens=backend.card.context_tokens,
            counter=counter,
        ),
    )
    request = ChatRequest(
        model=backend.card.name,
        messages=(Message(role=Role.USER, parts=(TextPart(text=question.text),)),),
        sampling=SamplingParams(temperature=0.0, max_tokens=48, given=frozenset({"temperature"})),
    )
    [choice] = (await collect(stage.stream(request))).choices
    quoted = re.search(r'"([^"]*)"', choice.text)
    said = quoted[1] if quoted else re.sub(r"\[\d+\]", "", choice.text)
    said = "" if choice.not_in_sources else said
    accepted = question.answers or ("",)
    return {
        "answerable": question.answerable,
        "exact": float(max(normal(said) == normal(right) for right in accepted)),
        "f1": max(f1(said, right) for right in accepted),
        "said_nothing_found": choice.not_in_sources,
        "citations": len(choice.citations),
        "supported": sum(item.verdict == "supported" for item in choice.citations),
        "right_source": any(item.source == question.cited for item in choice.citations),
        "text": choice.text,
    }


async def run(model: Path, questions: list[Question]) -> list[dict[str, Any]]:
    counter = Rendering(Tokenizer.load(model), ChatTemplate.load(model))
    async with EngineClient(model, SETTINGS, wait_s=120.0) as client:
        card = ModelCard(name=model.name, context_tokens=client.info.context_tokens, created_s=0)
        backend = EngineChat.load(client, model, card)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> dict[str, Any]:
            async with limit:
                return await answered(backend, counter, question)

        return list(await asyncio.gather(*(one(question) for question in questions)))


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return sum(float(row[key]) for row in rows) / len(rows) if rows else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, default=bundled_model())
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    one_in = default().held_out_articles_one_in
    read = passages(given.data / "squad_v2_dev" / "articles.json.gz")
    apart = [passage for passage in read if is_held_out(passage.article, one_in=one_in)]
    every = list(from_passages(apart, source_chars=500, sources=3))
    every.sort(key=lambda question: id_hash(f"{question.id}/bench"))
    half = given.questions // 2
    asked = [q for q in every if q.answerable][:half] + [q for q in every if not q.answerable][
        :half
    ]
    began = time.perf_counter()
    rows = asyncio.run(run(given.model, asked))
    for row in rows[: given.show]:
        print(row)
    good = [row for row in rows if row["answerable"]]
    none = [row for row in rows if not row["answerable"]]
    cited = sum(row["citations"] for row in rows)
    result = {
        "model": given.model.name,
        "questions": len(rows),
        "articles": len({passage.article for passage in apart}),
        "exact_match": mean(rows, "exact"),
        "f1": mean(rows, "f1"),
        "answerable": {
            "questions": len(good),
            "exact_match": mean(good, "exact"),
            "f1": mean(good, "f1"),
            "cites_the_right_source": mean(good, "right_source"),
        },
        "unanswerable": {
            "questions": len(none),
            "said_that_the_sources_do_not_say": mean(none, "said_nothing_found"),
        },
        "citations": cited,
        "citation_support": sum(row["supported"] for row in rows) / cited if cited else None,
        "answers_that_cite": sum(row["citations"] > 0 for row in rows) / len(rows),
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(result, indent=2))
    if given.out is not None:
        asked = {name: value for name, value in vars(given).items() if name not in ("data", "out")}
        write_result(given.out, what="answers from sources", arguments=asked, result=result)


if __name__ == "__main__":
    main()
