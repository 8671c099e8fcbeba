"""The cache behind a real gateway and in front of real clients."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from gateway_server import Gateway, serving
from headrace.config import CacheSettings
from headrace.gateway.caching.cached import Cached, CachePolicy
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.services import Served, Services
from headrace.testing import ScriptedBackend, reply
from headrace.types import ModelCard

ASKED: dict[str, Any] = {
    "model": "r",
    "temperature": 0,
    "messages": [{"role": "user", "content": "hi"}],
}


@contextmanager
def gateway() -> Generator[tuple[Gateway, ScriptedBackend]]:
    backend = ScriptedBackend(reply)
    served = Served(
        card=ModelCard(name="r", context_tokens=4096, created_s=1),
        chat=Cached(
            backend,
            Shelf(None, CacheSettings()),
            CachePolicy(ttl_s=60),
            Scope(route="r", target="r", release="", version=""),
        ),
    )
    with serving(base=Services(models={"r": served})) as server:
        yield server, backend


def test_the_header_says_what_it_is_and_the_client_may_say_what_it_wants() -> None:
    with gateway() as (server, backend), httpx.Client(base_url=server.url) as client:

        def ask(path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
            return client.post(path, json=ASKED, headers=headers)

        first, second = ask(), ask()
        assert [r.headers["x-headrace-cache"] for r in (first, second)] == ["miss", "hit"]
        assert first.json()["usage"] == second.json()["usage"]
        assert first.json()["id"] != second.json()["id"]
        assert first.json()["choices"] == second.json()["choices"]
        assert "x-headrace-cache" not in ask(**{"x-headrace-cache": "bypass"}).headers
        assert ask(**{"x-headrace-cache": "refresh"}).headers["x-headrace-cache"] == "miss"
        wrong = ask(**{"x-headrace-cache": "please"})
        assert wrong.status_code == 400
        assert "'please'; it takes bypass or refresh" in wrong.json()["error"]["message"]
        assert len(backend.requests) == 3
        # The same question in another protocol is the same question.
        body = {**ASKED, "max_tokens": 100}
        for path in ("/v1/chat/completions", "/v1/messages"):
            client.post(path, json=body)
        assert server.last().cache == "hit"
        metrics = client.get("/metrics").text
        assert 'headrace_cache_requests_total{model="r",result="hit"} 2.0' in metrics


def test_a_hit_streams_as_well_formed_as_the_first() -> None:
    with gateway() as (server, backend):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-")
        texts: list[str] = []
        for _ in range(2):
            stream = client.chat.completions.create(
                **ASKED, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
            texts.append("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
            assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 3
        assert texts == ["Hello, world"] * 2
        assert len(backend.requests) == 1
        assert server.last().cache == "hit"


@pytest.mark.parametrize("stream", [False, True])
def test_without_temperature_or_seed_the_model_is_asked(*, stream: bool) -> None:
    with gateway() as (server, backend), httpx.Client(base_url=server.url) as client:
        body = {**ASKED, "temperature": 1, "stream": stream}
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert "x-headrace-cache" not in answer.headers
        assert len(backend.requests) == 2
