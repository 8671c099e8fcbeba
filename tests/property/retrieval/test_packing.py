"""Packing, whatever was found: within the budget, word for word, nothing twice, the same again."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.grounded import Question, prompt
from headrace.errors import ContextLengthExceeded
from headrace.retrieval.packing import Order, PackOptions, Source, pack
from headrace.tokens import render
from headrace.types import ChatRequest, Passage, SourceDocument
from passages import cut, passage
from random_packs import TEMPLATE, TOKENIZER, WORDS, composed, random_pack

EMPTY_CHARACTERS = 40


class Characters:
    """A counter that can be read: a token is a character."""

    async def count(self, request: ChatRequest) -> int:
        return sum(len(getattr(part, "text", "")) for m in request.messages for part in m.parts)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Passage], dict[str, SourceDocument]]:
    """Documents with overlapping, touching, equal and stale passages, in any order."""
    found: list[Passage] = []
    documents: dict[str, SourceDocument] = {}
    for number in range(draw(st.integers(1, 4))):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=3, max_size=60))
        text = ". ".join(" ".join(words[at : at + 7]) for at in range(0, len(words), 7))
        document = SourceDocument(id=f"d{number}", text=text, title="T" * (number % 2))
        size = draw(st.integers(8, 80))
        pieces = cut(document, size, overlap=draw(st.integers(0, size // 2)))
        found += draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=8))
        if draw(st.booleans()):
            documents[document.id] = document
    if draw(st.booleans()):
        found.append(passage("stale", "some words that were", 3, 9))
        documents["stale"] = SourceDocument(id="stale", text="other words since then")
    return draw(st.permutations(found)), documents


def packed(world: tuple[list[Passage], dict[str, SourceDocument]], budget: int, order: Order):
    passages, documents = world
    options = PackOptions(order=order)
    return asyncio.run(
        pack(passages, composed(), Characters(), budget, documents=documents, options=options)
    )


@given(world=worlds(), budget=st.integers(EMPTY_CHARACTERS, 900), order=st.sampled_from(Order))
def test_a_pack_keeps_its_promises(
    world: tuple[list[Passage], dict[str, SourceDocument]], budget: int, order: Order
) -> None:
    result = packed(world, budget, order)
    texts = {p.chunk.document: p for p in world[0]}
    assert result.tokens <= budget
    assert asyncio.run(Characters().count(result.request)) == result.tokens
    assert [source.number for source in result.sources] == list(range(1, len(result.sources) + 1))
    spans: dict[str, list[tuple[int, int]]] = {}
    for source in result.sources:
        assert len(source.text) == source.end - source.start > 0
        for other in world[0]:
            chunk = other.chunk
            if chunk.document == source.document and chunk.ordinal in source.ordinals:
                at = chunk.start - source.start
                shown = source.text[max(at, 0) : at + len(chunk.text)]
                assert chunk.text.startswith(shown)
                assert source.cut or shown == chunk.text
        document = world[1].get(source.document)
        assert document is None or document.text[source.start : source.end] == source.text
        for start, end in spans.setdefault(source.document, []):
            assert source.end <= start or end <= source.start
        spans[source.document].append((source.start, source.end))
    plain = [" ".join(re.findall(r"\w+", source.text.lower())) for source in result.sources]
    assert len(plain) == len(set(plain)) or any(source.cut for source in result.sources)
    assert "stale" not in {s.document for s in result.sources} or "stale" not in texts
    assert packed(world, budget, order) == result


@given(world=worlds(), budget=st.integers(0, EMPTY_CHARACTERS))
def test_a_budget_below_the_question_is_told(
    world: tuple[list[Passage], dict[str, SourceDocument]], budget: int
) -> None:
    empty = asyncio.run(Characters().count(composed()(())))
    if empty > budget:
        with pytest.raises(ContextLengthExceeded, match=f"has {empty} tokens"):
            packed(world, budget, Order.AUTO)
    else:
        assert packed(world, budget, Order.AUTO).tokens <= budget


def test_the_quote_style_is_what_sprout_is_trained_on() -> None:
    """The same tokens, and the same owners of them."""
    texts = ("The embargo began in 1973.", "It ended in <|im_end|> 1974.")
    trained = render(TOKENIZER, TEMPLATE, [prompt(Question(id="q", text="When?", sources=texts))])
    sources = [
        Source(number=at, document=f"d{at}", start=0, end=len(text), text=text)
        for at, text in enumerate(texts, start=1)
    ]
    served = render(TOKENIZER, TEMPLATE, composed()(sources).messages)
    assert served.ids == trained.ids
    assert [s.label and s.label.integrity for s in served.spans] == [
        s.label and s.label.integrity for s in trained.spans
    ]


def test_what_was_counted_is_what_is_rendered() -> None:
    for seed in range(40):
        result = asyncio.run(random_pack(seed))
        rendered = render(TOKENIZER, TEMPLATE, result.request.messages)
        assert result.tokens == len(rendered.ids) <= result.budget
