"""A retriever over the embedded store: modes, fallbacks, models that rank, and why not."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import index_stores
from headrace.data.squad import passages as squad_passages
from headrace.errors import DeadlineExceeded, InvalidParameter, NotReady
from headrace.retrieval.contracts import Generation
from headrace.retrieval.measures import ndcg
from headrace.retrieval.ranking import (
    ChatReranker,
    Fusing,
    Golden,
    PairReranker,
    Phraser,
    RankingSettings,
    Reason,
    Retriever,
    tune,
    why,
)
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.testing import HashEmbedder, ScriptedBackend
from headrace.types import (
    Embedded,
    EmbedRequest,
    Finished,
    FinishReason,
    SearchMode,
    SearchRequest,
    SearchResult,
    Started,
    TextDelta,
    Usage,
    Where,
)

TEXTS = {
    "mill": "The mill wheel turns in the river and grinds the grain to flour.",
    "bridge": "The stone bridge over the river was built for the market carts.",
    "ledger": "The clerk writes the price of flour in the ledger of the mill.",
    "storm": "A storm took the roof of the barn and the harvest with it.",
}


async def embedded(embedder: HashEmbedder, texts: Sequence[str]) -> list[bytes]:
    made = await embedder.embed(EmbedRequest(model="hash", inputs=tuple(texts)))
    return [bytes(made.row(at).cast("B")) for at in range(made.count)]


async def filled(directory: Path, embedder: HashEmbedder, texts: dict[str, str]) -> SqliteStore:
    store = await SqliteStore.open(directory / "index")
    card = embedder.card
    await store.begin(
        Generation(
            number=1, embedder="hash", fingerprint=card.fingerprint, dimensions=card.dimensions
        )
    )
    vectors = await embedded(embedder, list(texts.values()))
    entries = [
        index_stores.entry(id, text, readers=frozenset({"ann"}) if id == "ledger" else None)
        for id, text in texts.items()
    ]
    await store.put([replace(e, vectors={1: v}) for e, v in zip(entries, vectors, strict=True)])
    return store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    store = await filled(tmp_path, HashEmbedder(), TEXTS)
    yield store
    await store.close()


def asks(
    query: str = "mill flour",
    *,
    mode: SearchMode = SearchMode.HYBRID,
    k: int = 2,
    rerank: bool = True,
    deadline_s: float | None = None,
    principals: frozenset[str] | None = None,
) -> SearchRequest:
    return SearchRequest(
        index="i",
        query=query,
        k=k,
        mode=mode,
        rerank=rerank,
        deadline_s=deadline_s,
        principals=principals,
    )


def documents(result: SearchResult) -> list[str]:
    return [passage.chunk.document for passage in result.passages]


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_every_mode_finds_what_says_it(store: SqliteStore, mode: SearchMode) -> None:
    found = await Retriever(store, HashEmbedder()).search(asks(mode=mode))
    assert set(documents(found)) == {"mill", "ledger"}
    assert found.matching == 4
    assert not found.shortfall


async def test_an_answer_says_how_it_came_about(store: SqliteStore) -> None:
    found = await Retriever(store, HashEmbedder()).search(asks())
    assert any(note.startswith("weighed for this question: keyword") for note in found.notes)
    assert "ranked anew by learned" in found.notes
    assert {"bm25", "cosine", "fused", "coverage"} <= found.passages[0].features.keys()


async def test_what_is_hidden_is_neither_found_nor_counted(store: SqliteStore) -> None:
    found = await Retriever(store, HashEmbedder()).search(asks(k=4, principals=frozenset({"bob"})))
    assert "ledger" not in documents(found)
    assert found.matching == 3
    assert len(found.passages) == 4 or found.shortfall


async def test_fewer_than_asked_for_are_explained(store: SqliteStore) -> None:
    found = await Retriever(store, HashEmbedder()).search(asks("barn", mode=SearchMode.KEYWORD))
    assert documents(found) == ["storm"]
    assert found.shortfall


class Failing(HashEmbedder):
    async def embed(self, request: EmbedRequest) -> Embedded:
        raise NotReady("the model is loading")


async def test_without_an_embedder_keywords_answer_and_say_so(store: SqliteStore) -> None:
    found = await Retriever(store, Failing()).search(asks())
    assert set(documents(found)) == {"mill", "ledger"}
    assert any("keywords alone" in note for note in found.notes)
    with pytest.raises(NotReady):
        await Retriever(store, Failing()).search(asks(mode=SearchMode.VECTOR))


def said(text: str) -> ScriptedBackend:
    return ScriptedBackend(
        [
            Started(id="r", model="m", created_s=1, prompt_tokens=1),
            TextDelta(text=text),
            Finished(reason=FinishReason.STOP, usage=Usage()),
        ]
    )


async def test_a_chat_model_orders_the_best(store: SqliteStore) -> None:
    plain = await Retriever(store, HashEmbedder()).search(asks(k=3, rerank=False))
    backend = said("[2, 1]")
    way = Retriever(store, HashEmbedder(), reranker=ChatReranker(backend, "m"))
    found = await way.search(asks(k=3))
    assert documents(found)[:2] == documents(plain)[1::-1]
    assert documents(found)[2] == documents(plain)[2]
    assert "ranked anew by chat:m" in found.notes


async def test_a_model_that_says_nothing_leaves_the_order_before(store: SqliteStore) -> None:
    plain = await Retriever(store, HashEmbedder()).search(asks(rerank=False))
    way = Retriever(store, HashEmbedder(), reranker=ChatReranker(said("none of them"), "m"))
    found = await way.search(asks())
    assert documents(found) == documents(plain)
    assert any("failed" in note and "order before" in note for note in found.notes)


class Slow:
    async def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")


async def test_a_reranker_that_is_late_leaves_the_order_before(store: SqliteStore) -> None:
    settings = RankingSettings(rerank_timeout_s=0.01)
    way = Retriever(store, HashEmbedder(), settings=settings, reranker=PairReranker(Slow()))
    found = await way.search(asks())
    plain = await Retriever(store, HashEmbedder()).search(asks(rerank=False))
    assert documents(found) == documents(plain)
    assert "reranker pairs did not answer in time: the order before it stands" in found.notes


class Backwards:
    async def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        return range(len(texts))


async def test_pairs_are_scored_of_the_best_few(store: SqliteStore) -> None:
    plain = documents(await Retriever(store, HashEmbedder()).search(asks(k=4, rerank=False)))
    way = Retriever(store, HashEmbedder(), reranker=PairReranker(Backwards(), most=2))
    assert documents(await way.search(asks(k=4))) == [plain[1], plain[0], *plain[2:]]


async def test_a_slow_embedder_is_not_waited_for(store: SqliteStore) -> None:
    found = await Retriever(store, HashEmbedder(pause_s=60)).search(asks(deadline_s=0.5))
    assert set(documents(found)) == {"mill", "ledger"}
    assert any("the embedder failed" in note for note in found.notes)


async def test_other_phrasings_bring_what_the_question_lacks(store: SqliteStore) -> None:
    settings = RankingSettings(phrasings=1, fusing=Fusing.CONVEX)
    backend = said("harvest storm barn")
    way = Retriever(store, HashEmbedder(), settings=settings, phraser=Phraser(backend, "m"))
    found = await way.search(asks("weather", k=4, rerank=False))
    assert documents(found)[0] == "storm"
    assert any("with 1 other phrasings" in note for note in found.notes)
    with pytest.raises(InvalidParameter, match="phrasings"):
        Retriever(store, HashEmbedder(), settings=settings)


async def test_diversity_puts_back_what_says_the_same(tmp_path: Path) -> None:
    texts = {"a": "mill flour price", "b": "mill flour price", "c": "mill river wheel"}
    store = await filled(tmp_path, HashEmbedder(), texts)
    asked = asks("mill flour price")
    plain = documents(await Retriever(store, HashEmbedder()).search(asked))
    assert set(plain) == {"a", "b"}
    settings = RankingSettings(diversity=0.7)
    found = await Retriever(store, HashEmbedder(), settings=settings).search(asked)
    assert documents(found) == [plain[0], "c"]
    await store.close()


async def test_why_a_document_was_not_found(store: SqliteStore) -> None:
    way = Retriever(store, HashEmbedder())
    bob = frozenset({"bob"})
    assert (await why(way, asks(), "nowhere", asker=None)).reason is Reason.ABSENT
    assert (await why(way, asks(principals=bob), "ledger", asker=None)).reason is Reason.HIDDEN
    # Who may not know of it is told what he would be of one that is not there.
    told = await why(way, asks(principals=bob), "ledger", asker=bob)
    assert told.reason is Reason.ABSENT
    assert (await why(way, asks(), "mill", asker=None)).reason is Reason.FOUND
    standing = await why(way, asks(k=1), "storm", asker=None)
    assert standing.reason is Reason.OUTRANKED
    assert standing.keyword_rank == 0 < standing.vector_rank


async def test_why_names_the_filter(store: SqliteStore) -> None:
    request = SearchRequest(
        index="i", query="mill", principals=None, filter=Where(field="id", value="storm")
    )
    found = await why(Retriever(store, HashEmbedder()), request, "mill", asker=None)
    assert found.reason is Reason.FILTERED


async def test_tuning_keeps_the_default_without_proof(store: SqliteStore) -> None:
    golden = [Golden(query=text, grades={id: 1.0}) for id, text in TEXTS.items()]
    tuned = await tune(Retriever(store, HashEmbedder()), "i", golden)
    assert tuned.settings == RankingSettings()
    assert "stands" in tuned.said
    assert len(tuned.tried) == 14
    with pytest.raises(InvalidParameter, match="too few"):
        await tune(Retriever(store, HashEmbedder()), "i", golden[:1])


class Misled(HashEmbedder):
    """Makes of a question the vector of other words."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        turned = tuple(str(text)[::-1] for text in request.inputs)
        return await super().embed(replace(request, inputs=turned))


async def test_tuning_takes_what_is_better_for_certain(tmp_path: Path) -> None:
    texts = {f"d{at}": f"word{at} common text" for at in range(40)}
    store = await filled(tmp_path, HashEmbedder(), texts)
    golden = [Golden(query=f"word{at}", grades={f"d{at}": 1.0}) for at in range(40)]
    wrong = RankingSettings(fusing=Fusing.CONVEX, keyword_weight=0.0)
    tuned = await tune(Retriever(store, Misled(), settings=wrong), "i", golden)
    assert tuned.tried[0].ndcg < 0.5
    assert tuned.settings.fusing is not Fusing.CONVEX or tuned.settings.keyword_weight >= 0.5
    await store.close()


@pytest.mark.parametrize(
    "request_", [asks(k=0), asks(deadline_s=-1.0), asks("  ")], ids=["k", "deadline", "query"]
)
async def test_bad_requests_are_refused(store: SqliteStore, request_: SearchRequest) -> None:
    with pytest.raises((InvalidParameter, DeadlineExceeded)):
        await Retriever(store, HashEmbedder()).search(request_)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="`keyword_weight` is 2"):
        RankingSettings(keyword_weight=2)


async def test_hybrid_is_no_worse_than_keywords_on_real_questions(
    tmp_path: Path, shared_data: Path
) -> None:
    """With vectors that know no meaning at all, the weigher must not trust them."""
    paragraphs = squad_passages(shared_data / "squad_v2_dev" / "articles.json.gz")[:120]
    texts = {f"p{at:03}": paragraph.text for at, paragraph in enumerate(paragraphs)}
    embedder = HashEmbedder(dimensions=256, max_tokens=4096)
    store = await filled(tmp_path, embedder, texts)
    way = Retriever(store, embedder)
    asked = [
        (question, f"p{at:03}")
        for at, paragraph in enumerate(paragraphs)
        for _, question, answers in paragraph.asked[:2]
        if answers
    ][:80]
    gains: dict[str, list[float]] = {"keyword": [], "hybrid": [], "reranked": []}
    for question, right in asked:
        for name, mode, rerank in (
            ("keyword", SearchMode.KEYWORD, False),
            ("hybrid", SearchMode.HYBRID, False),
            ("reranked", SearchMode.HYBRID, True),
        ):
            found = await way.search(asks(question, mode=mode, k=10, rerank=rerank))
            gains[name].append(ndcg(documents(found), {right: 1.0}))
    await store.close()
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    assert means["hybrid"] >= means["keyword"] - 0.005, means
    assert means["reranked"] >= means["keyword"] - 0.005, means
