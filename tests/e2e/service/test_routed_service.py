"""A real `headrace serve` without a model of its own: rules, a pool, the cache, the store."""

import json
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from service import Service, running
from upstreams import FakeUpstream, Say, sse, upstream

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def spoken(text: str) -> Say:
    head = {"id": "c", "model": "m", "created": 5}
    return Say(
        body=sse(
            {**head, "choices": [{"index": 0, "delta": {"content": text}}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**head, "choices": [], "usage": USAGE},
            done=True,
        )
    )


@pytest.fixture
def service(tmp_path: Path) -> Generator[tuple[Service, FakeUpstream, FakeUpstream]]:
    with upstream(spoken("I cannot help.")) as small, upstream(spoken("Large.")) as large:
        (tmp_path / "headrace.toml").write_text(
            f"""
            [model]
            path = "none"
            [providers.small]
            kind = "compatible"
            url = "{small.url}"
            managed = false
            [providers.large]
            kind = "compatible"
            url = "{large.url}"
            [data_classes.secret]
            managed = false
            [routes.little]
            provider = "small"
            [routes.big]
            provider = "large"
            [routes.assist]
            cascade = ["little", "big"]
            cache_ttl_s = 60
            [[routes.assist.rules]]
            name = "hello"
            text = "^hello$"
            answer = "Hello!"
            [[routes.assist.rules]]
            name = "shout"
            text = "^[A-Z ]+$"
            deny = "no shouting"
            """
        )
        with running(tmp_path, sets=(f"store.url=sqlite:///{tmp_path / 'headrace.db'}",)) as made:
            yield made, small, large


def test_the_whole_way(service: tuple[Service, FakeUpstream, FakeUpstream]) -> None:
    made, small, large = service

    def ask(text: str, **headers: str) -> httpx.Response:
        body = {
            "model": "assist",
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        return httpx.post(f"{made.url}/v1/chat/completions", json=body, headers=headers, timeout=30)

    def text(answer: httpx.Response) -> str:
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    assert text(ask("hello")) == "Hello!"
    refused = ask("HELLO THERE")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert not small.asked
    assert not large.asked

    # The small one refuses, so the large one answers; both were asked, once, and it is kept.
    first, second = ask("what is water?"), ask("what is water?")
    assert [text(first), text(second)] == ["Large."] * 2
    assert [a.headers["x-headrace-cache"] for a in (first, second)] == ["miss", "hit"]
    assert (len(small.asked), len(large.asked)) == (1, 1)

    # A secret stays with one's own machines, even where what they say fails a check.
    held = ask("a secret", **{"x-headrace-data-class": "secret"})
    assert (held.status_code, held.json()["error"]["code"]) == (403, "data_class_forbids")
    assert (len(small.asked), len(large.asked)) == (2, 1)
    assert ask("x", **{"x-headrace-data-class": "what"}).status_code == 400

    metrics = made.get("/metrics")[1]
    assert 'headrace_cache_requests_total{model="assist",result="hit"} 1.0' in metrics

    # A change of the rules is another configuration: what was kept under the old one is not given.
    file = made.state_dir.parent / "headrace.toml"
    file.write_text(file.read_text().replace("no shouting", "please do not shout"))
    made.wait_logged("new settings from", timeout_s=30)
    assert "please do not shout" in json.dumps(ask("HELLO THERE").json())
    assert ask("what is water?").headers["x-headrace-cache"] == "miss"
