"""A managed model behind the gateway: settings, fallback, breaker, cancellation, real clients."""

import json
import socket
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway_server import Gateway, serving
from headrace.config import load, secret
from headrace.errors import ConfigError
from headrace.gateway.services import Served, Services
from headrace.providers.assemble import open_routes
from headrace.testing import ScriptedBackend, reply
from upstreams import (
    ANTHROPIC_ANSWER,
    OPENAI_ANSWER,
    FakeUpstream,
    Say,
    upstream,
)

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
ERROR = json.dumps({"error": {"message": "no good"}}).encode()


def settings_file(path: Path, body: str) -> Path:
    path.write_text(body)
    return path


@contextmanager
def gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, primary: str, second: str, **options: Any
) -> Generator[Gateway]:
    """Route `r` over an OpenAI-like server, with an Anthropic-like one and the local `m` behind."""
    monkeypatch.setenv("TEST_PROVIDER_KEY", "secret")
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    file = settings_file(
        tmp_path / "headrace.toml",
        f"""
        [providers.one]
        kind = "openai"
        url = "{primary}"
        key = "env:TEST_PROVIDER_KEY"
        attempts = 1
        {lines}
        [providers.two]
        kind = "anthropic"
        url = "{second}"
        key = "env:TEST_PROVIDER_KEY"
        attempts = 1
        [routes.alone]
        provider = "one"
        [routes.r]
        provider = "one"
        fallback = ["claude", "m"]
        [routes.claude]
        provider = "two"
        model = "claude-x"
        """,
    )
    local = ScriptedBackend(reply)
    stack = AsyncExitStack()
    found = open_routes(load(file=file), {"m": local}, stack)
    models = {
        name: Served(card=route.card, chat=route.chat, counter=route.counter)
        for name, route in found.items()
    }
    with serving(base=Services(models=models), stack=stack) as running:
        yield running


@pytest.fixture
def second() -> Generator[FakeUpstream]:
    with upstream(Say(ANTHROPIC_ANSWER)) as server:
        yield server


def chat(gateway: Gateway, model: str = "r") -> str:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
        text = ""
        for chunk in client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
            for choice in chunk.choices:
                text += choice.delta.content or ""
        plain = client.chat.completions.create(model=model, messages=MESSAGES)
    assert plain.choices[0].message.content == text
    return text


FAILING = {
    "500": Say(ERROR, status=500, kind="application/json"),
    "429": Say(ERROR, status=429, kind="application/json", headers=(("Retry-After", "1"),)),
    "hangs": Say(OPENAI_ANSWER, hang_s=30),
    "says nothing": Say(b"", stall_s=30),
    "wrong key": Say(ERROR, status=401, kind="application/json"),
    "breaks before a word": Say(OPENAI_ANSWER[:150], cut=True),
}


@pytest.mark.parametrize("failing", [*FAILING])
def test_a_primary_that_fails_is_not_seen(
    failing: str, second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        upstream(FAILING[failing]) as primary,
        gateway(
            tmp_path, monkeypatch, primary.url, second.url, first_byte_timeout_s=0.2
        ) as running,
    ):
        assert chat(running) == "żółw 🐢"
        assert chat(running, "claude") == "żółw 🐢"
    assert second.asked[0].json["model"] == "claude-x"
    assert second.asked[0].headers["x-api-key"] == "secret"


def test_a_primary_that_breaks_in_the_middle_is_one_clear_error(
    second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = OPENAI_ANSWER[: OPENAI_ANSWER.index(b"tool_calls")]
    with (
        upstream(Say(half, cut=True)) as primary,
        gateway(tmp_path, monkeypatch, primary.url, second.url) as running,
    ):
        texts: list[str] = []
        with openai.OpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0) as client:
            stream = client.chat.completions.create(model="r", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match="provider one: "):
                texts.extend(c.choices[0].delta.content or "" for c in stream if c.choices)
            with pytest.raises(openai.InternalServerError, match="provider one: "):
                client.chat.completions.create(model="r", messages=MESSAGES)
        with (
            anthropic.Anthropic(base_url=running.url, api_key="x", max_retries=0) as other,
            pytest.raises(anthropic.APIStatusError, match="provider one: "),
            other.messages.stream(model="r", max_tokens=9, messages=MESSAGES) as messages,
        ):
            messages.until_done()
    assert not second.asked


def test_all_of_them_down_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        upstream(FAILING["500"]) as primary,
        gateway(tmp_path, monkeypatch, primary.url, primary.url) as running,
    ):
        # Both fail; the local model, last of the chain, answers.
        assert chat(running) == "Hello, world"
        with pytest.raises(openai.InternalServerError, match="provider one: HTTP 500"):
            chat(running, "alone")


def test_the_breaker_keeps_a_dead_provider_from_being_asked(
    second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = FAILING["500"]
    with (
        upstream([dead, dead, dead, Say(OPENAI_ANSWER)]) as primary,
        gateway(
            tmp_path, monkeypatch, primary.url, second.url, breaker_failures=3, breaker_open_s=3.0
        ) as running,
    ):
        for _ in range(2):
            assert chat(running) == "żółw 🐢"
        assert len(primary.asked) == 3
        time.sleep(3.1)
        assert chat(running) == "żółw 🐢"
        assert len(primary.asked) == 5


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_closes_the_providers_connection(
    stream: bool, second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Say(OPENAI_ANSWER[: OPENAI_ANSWER.index(b"tool_calls") - 50], stall_s=30)
    with (
        upstream(slow) as primary,
        gateway(tmp_path, monkeypatch, primary.url, second.url) as running,
    ):
        body = json.dumps({"model": "r", "messages": MESSAGES, "stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running.port)) as peer:
            peer.sendall(head.encode() + body)
            running.wait(lambda: bool(primary.asked))
            if stream:
                peer.recv(1 << 16)
            time.sleep(0.1)
        left = time.monotonic()
        running.wait(lambda: primary.cut_short == 1, timeout_s=2)
        assert time.monotonic() - left < 0.1


def test_what_a_provider_does_not_show_is_refused(
    second: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(tmp_path, monkeypatch, second.url, second.url) as running:
        for path, body in {
            "/tokenize": {"prompt": "x"},
            "/v1/completions": {"prompt": "x"},
            "/render": {"messages": MESSAGES},
        }.items():
            answer = httpx.post(running.url + path, json={"model": "claude", **body})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "model"


BAD: list[tuple[str, str]] = [
    ('[routes.a]\nprovider = "p"\nmodle = "x"', "did you mean model"),
    ('[routes.a]\nprovider = "nobody"', "there is: p"),
    ('[routes.a]\nprovider = "p"\nfallback = ["b"]', "'b' is not another model"),
    ('[routes.m]\nprovider = "p"', "the name of the local model"),
    ('[routes.a]\nprovider = "p"\nfallback = [1]', "not a list of strings"),
    ('[providers.q]\nkind = "openai"\nkey = "sk-1"\n[routes.a]\nprovider = "q"', "env:NAME"),
    ('[providers.q]\nkind = "x"\n[routes.a]\nprovider = "q"', "not one of openai"),
    ('[providers.q]\nkind = "vertex"\n[routes.a]\nprovider = "q"', "project is missing"),
    (
        '[providers.q]\nkind = "gemini"\nkey = "env:NOT_SET_HERE"\n[routes.a]\nprovider = "q"',
        "NOT_SET_HERE is not set",
    ),
]


@pytest.mark.parametrize(("body", "told"), BAD)
async def test_settings_that_cannot_be_are_told(body: str, told: str, tmp_path: Path) -> None:
    good = '[providers.p]\nkind = "compatible"\nurl = "http://127.0.0.1:1"\n'
    file = settings_file(tmp_path / "headrace.toml", good + body)
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=told):
            open_routes(load(file=file), {"m": ScriptedBackend(reply)}, stack)


def test_a_key_in_a_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    read = secret(f"file:{file}")
    assert read() == "one"
    file.with_suffix(".new").write_text("two")
    file.with_suffix(".new").rename(file)
    assert read() == "two"
