"""A route whose settings name an index is answered from it: by its caller's eyes, kept by what it
said then."""

from pathlib import Path

import pytest

from headrace.config import CacheSettings, ContextSettings, RouteSettings
from headrace.errors import ConfigError
from headrace.gateway.caching.cached import Cached, CachePolicy
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.context import InContext, with_context
from headrace.gateway.services import Served, ServedEmbedder
from headrace.retrieval.library import Library
from headrace.testing import ScriptedBackend
from headrace.testing.embedder import HashEmbedder
from headrace.types import (
    Caller,
    ChatRequest,
    Message,
    ModelCard,
    Role,
    SamplingParams,
    Target,
    TextPart,
    collect,
)
from index_library import RED, errand, library, spec, text

pytestmark = pytest.mark.asyncio

EVE = Caller(key_id="e", org="acme", team="red", user="eve")
BOB = Caller(key_id="b", org="acme", team="red", user="bob")
CONTEXT = ContextSettings(index="notes", org="acme", team="red")
EMBEDDERS = {
    "hash": ServedEmbedder(embedder=HashEmbedder(), target=Target(provider="", model="hash"))
}


def served() -> Served:
    card = ModelCard(name="m", context_tokens=1000, created_s=1)
    return Served(card=card, chat=ScriptedBackend(()), candidates=(Target(provider="", model="m"),))


def request(caller: Caller) -> ChatRequest:
    message = Message(role=Role.USER, parts=(TextPart(text="fox"),))
    return ChatRequest(
        model="m", messages=(message,), caller=caller, sampling=SamplingParams(temperature=0)
    )


def fitted(books: Library | None, context: ContextSettings = CONTEXT) -> Served:
    routes = {"m": RouteSettings(provider="p", context=context)}
    return with_context({"m": served()}, routes, books, EMBEDDERS).models["m"]


async def test_each_caller_is_answered_from_what_it_may_read(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.ingest("notes", [text("a", "fox", "user:eve")], errand())
        stage = fitted(books)
        assert (await collect(stage.chat.stream(request(EVE)))).choices[0].text == "fox [1]"
        bob = (await collect(stage.chat.stream(request(BOB)))).choices[0]
        assert (bob.text, bob.not_in_sources) == ("", True)
        # What is held covers the sources and the question's vector.
        assert stage.added_tokens > 500
        assert EMBEDDERS["hash"].target in stage.candidates
        assert stage.calls == 2


async def test_a_kept_answer_is_of_one_state_of_the_index_and_one_reader(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.create(spec(), errand())
        await books.ingest("notes", [text("a", "fox", "user:eve"), text("b", "a fox")], errand())
        routes = {"m": RouteSettings(provider="p", context=CONTEXT)}
        made = with_context({"m": served()}, routes, books, EMBEDDERS)
        cached = Cached(
            made.models["m"].chat,
            Shelf(None, CacheSettings()),
            CachePolicy(ttl_s=600),
            Scope(route="m", target="m", release="r", version="v"),
            snapshot=made.snapshots["m"],
        )

        async def said(caller: Caller) -> tuple[str, str]:
            asked = request(caller)
            answer = await collect(cached.stream(asked))
            return answer.choices[0].text, asked.trail.cache

        assert await said(EVE) == ("fox [1]", "miss")
        assert await said(EVE) == ("fox [1]", "hit")
        assert await said(BOB) == ("a fox [1]", "miss")
        await books.remove("notes", "a", RED)
        assert await said(EVE) == ("a fox [1]", "miss")


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (ContextSettings(k=3), "routes.m.context has no effect without `index`"),
        (ContextSettings(index="n", policy="x"), "routes.m.context.policy = 'x'"),
        (ContextSettings(index="n", k=-1), "routes.m.context.k = -1 is negative"),
        (ContextSettings(index="n", abstain_below=2.0), "abstain_below = 2.0 is not from 0 to 1"),
        (ContextSettings(index="n", style="x"), "routes.m.context.style = 'x'"),
        (ContextSettings(index="n", escalate="m"), "escalate has no effect without policy"),
        (ContextSettings(index="n", policy="escalate"), "escalate = '' is no other model"),
        (
            ContextSettings(index="n", policy="escalate", escalate="m"),
            "escalate = 'm' is no other model; there is: none",
        ),
    ],
)
async def test_settings_that_cannot_be(context: ContextSettings, said: str, tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
            fitted(books, context)


async def test_without_a_model_for_vectors_a_route_cannot_have_context() -> None:
    with pytest.raises(ConfigError, match=r"set embeddings\.path"):
        fitted(None)


async def test_a_route_names_its_style_and_whom_it_escalates_to(tmp_path: Path) -> None:
    context = ContextSettings(
        index="notes", org="acme", team="red", policy="escalate", escalate="big", style="quote"
    )
    routes = {"m": RouteSettings(provider="p", context=context)}
    big = served()
    big = Served(card=big.card, chat=big.chat, candidates=(Target(provider="p", model="big"),))
    async with library(tmp_path) as books:
        made = with_context({"m": served(), "big": big}, routes, books, EMBEDDERS).models["m"]
    assert Target(provider="p", model="big") in made.candidates
    assert made.calls == 2
    assert isinstance(made.chat, InContext)
    assert (made.chat.how.style, made.chat.how.escalate) == ("quote", big.chat)
