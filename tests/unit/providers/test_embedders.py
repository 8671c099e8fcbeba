"""Embedding routes over a provider that is our own gateway: the same vectors, and what may fail."""

import contextlib
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import pytest

from gateway_server import Gateway, serving
from headrace.config import (
    DataClassSettings,
    EmbeddingRouteSettings,
    ProviderSettings,
    Settings,
)
from headrace.errors import (
    ConfigError,
    ContextLengthExceeded,
    NotReady,
    PlaceForbidden,
    UnsupportedParameter,
    UpstreamError,
)
from headrace.gateway.services import ServedEmbedder, Services
from headrace.providers.embedders import open_embedders
from headrace.providers.openai_embeddings import OpenAIEmbedder
from headrace.providers.residency import Residency
from headrace.providers.upstream import Timeouts
from headrace.testing import HashEmbedder
from headrace.types import Caller, Embedded, Embedder, EmbedderCard, EmbedRequest, Target, Usage


class Flaky(HashEmbedder):
    """Fails so many times first."""

    failures = 0

    async def embed(self, request: EmbedRequest) -> Embedded:
        if self.failures:
            self.failures -= 1
            error = NotReady("warming up")
            error.retry_after_s = 0
            raise error
        return await super().embed(request)


@pytest.fixture(scope="module")
def flaky() -> Flaky:
    return Flaky(name="up", max_tokens=8)


@pytest.fixture(scope="module")
def gateway(flaky: Flaky) -> Generator[Gateway]:
    served = ServedEmbedder(embedder=flaky, target=Target(provider="", model="up"))
    with serving(base=Services(models={}, embedders={"up": served})) as running:
        yield running


def _settings(gateway: Gateway, **provider: object) -> Settings:
    made = ProviderSettings(kind="compatible", url=gateway.url, attempts=2, breaker_failures=2)
    route = EmbeddingRouteSettings(provider="p", model="up", dimensions=64, min_dimensions=8)
    return Settings(
        providers={"p": replace(made, **provider)},  # pyright: ignore[reportArgumentType]
        embedding_routes={"e": route},
    )


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[Embedder]:
    async with contextlib.AsyncExitStack() as stack:
        routes = open_embedders(settings, stack, residency=Residency.of(settings))
        assert routes["e"].target == Target(provider="p", model="up")
        yield routes["e"].embedder


ASK = EmbedRequest(model="e", inputs=("the mill", "a river"))


async def test_the_same_vectors(gateway: Gateway, flaky: Flaky) -> None:
    wanted = await flaky.embed(ASK)
    async with _opened(_settings(gateway)) as embedder:
        request = replace(ASK, trail=type(ASK.trail)())
        found = await embedder.embed(request)
        short = await embedder.embed(replace(request, dimensions=8))
        assert sum(await embedder.count(request)) >= found.usage.prompt_tokens
    assert (found.data, found.usage) == (wanted.data, Usage(prompt_tokens=4))
    assert (short.dimensions, short.count) == (8, 2)
    assert [(leg.provider, leg.model, leg.outcome) for leg in request.trail.legs] == [
        ("p", "up", "stop"),
        ("p", "up", "stop"),
    ]


async def test_one_failure_is_asked_again(gateway: Gateway, flaky: Flaky) -> None:
    flaky.failures = 1
    async with _opened(_settings(gateway)) as embedder:
        request = replace(ASK, trail=type(ASK.trail)())
        assert (await embedder.embed(request)).count == 2
    assert [leg.outcome for leg in request.trail.legs] == ["not_ready", "stop"]


async def test_the_breaker_opens(gateway: Gateway, flaky: Flaky) -> None:
    flaky.failures = 100
    try:
        async with _opened(_settings(gateway, attempts=1)) as embedder:
            for _ in range(2):
                with pytest.raises(NotReady, match=r"provider p: .*warming up"):
                    await embedder.embed(ASK)
            left = flaky.failures
            with pytest.raises(NotReady, match="not asked for now, after 2 failures"):
                await embedder.embed(ASK)
            assert flaky.failures == left
    finally:
        flaky.failures = 0


async def test_a_text_that_is_too_long_is_the_caller_s(gateway: Gateway) -> None:
    async with _opened(_settings(gateway)) as embedder:
        with pytest.raises(ContextLengthExceeded, match="9 tokens"):
            await embedder.embed(replace(ASK, inputs=("a " * 9,)))


@pytest.mark.parametrize(
    ("change", "param"), [({"prompt": "query"}, "input_type"), ({"truncate": True}, "truncate")]
)
async def test_what_the_protocol_cannot_carry(
    gateway: Gateway, change: dict[str, object], param: str
) -> None:
    async with _opened(_settings(gateway)) as embedder:
        with pytest.raises(UnsupportedParameter) as caught:
            await embedder.embed(replace(ASK, **change))  # pyright: ignore[reportArgumentType]
        assert caught.value.param == param


async def test_a_data_class_that_may_not_leave(gateway: Gateway) -> None:
    settings = _settings(gateway, managed=True)
    settings = replace(settings, data_classes={"secret": DataClassSettings(managed=False)})
    async with _opened(settings) as embedder:
        caller = Caller(data_classes=frozenset({"secret"}))
        with pytest.raises(PlaceForbidden, match="secret"):
            await embedder.embed(replace(ASK, caller=caller))


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (EmbeddingRouteSettings(provider="q"), "provider = 'q' is no provider; there is: p"),
        (EmbeddingRouteSettings(provider="a"), "of kind 'anthropic', through which no vectors"),
    ],
)
async def test_settings_that_cannot_be(
    gateway: Gateway, route: EmbeddingRouteSettings, message: str
) -> None:
    settings = _settings(gateway)
    providers = {**settings.providers, "a": ProviderSettings(kind="anthropic")}
    if route.provider == "q":
        providers = dict(settings.providers)
    settings = replace(settings, providers=providers, embedding_routes={"e": route})
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=message):
            open_embedders(settings, stack, residency=Residency.of(settings))


ROW = {"index": 0, "embedding": [1.0, 2.0]}
USAGE = {"prompt_tokens": 3}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [ROW]},
        {"data": [ROW, ROW], "usage": USAGE},
        {"data": [ROW, {"index": 1, "embedding": [1.0]}], "usage": USAGE},
        {"data": [ROW, {"index": -1, "embedding": [1.0, 2.0]}], "usage": USAGE},
        {"data": [ROW, {"index": 2, "embedding": [1.0, 2.0]}], "usage": USAGE},
        {"data": [ROW, {"index": 1, "embedding": "AAAA"}], "usage": USAGE},
        {"data": [ROW, {"index": 1, "embedding": [float("nan"), 0.0]}], "usage": USAGE},
        {"data": [ROW, {"index": 1, "embedding": None}], "usage": USAGE},
        {"data": [ROW, {"index": 1, "embedding": [1, 2]}], "usage": {"prompt_tokens": None}},
        {"data": [ROW, {"index": 1, "embedding": [1, 2]}]},
        {"data": 5, "usage": USAGE},
    ],
)
async def test_a_malformed_answer_is_an_error(answer: dict[str, object]) -> None:
    card = EmbedderCard(name="e", dimensions=2, max_tokens=0, created_s=0)
    client = OpenAIEmbedder(
        url="http://127.0.0.1:1/v1", model="m", card=card, authorize=None, timeouts=Timeouts()
    )
    with pytest.raises(UpstreamError, match="answered"):
        client._read(answer, 2)
    await client.close()
