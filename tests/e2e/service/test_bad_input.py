"""Nothing a client sends is accepted in silence, and nothing it sends stops the service."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from service import Service, running

USER = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as ready:
        yield ready
        status, answer = ready.post(CHAT, {"model": "sprout", "messages": USER, "max_tokens": 2})
        assert status == 200, answer  # whatever came before, it still serves


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -5}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"best_beams": 4}, "best_beams"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_is_named(service: Service, change: dict[str, Any], param: str) -> None:
    status, answer = service.post(CHAT, {"model": "sprout", "messages": USER, **change})
    assert status == 400, answer
    assert answer["error"]["type"]
    assert (answer["error"]["param"] or "").startswith(param), answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "sprout", "messages": NaN}',
        b'\xff\xfe{"model"',
        b"[" * 100_000,
        b'{"model": "sprout", "messages": [{"role": "user", "content": "\\ud800"}]}',
        json.dumps({"model": "sprout", "messages": [{"role": "user", "content": "a"}]}).encode()[
            :-1
        ],
    ],
)
def test_malformed_bodies(service: Service, body: bytes) -> None:
    status, answer = service.post(CHAT, body)
    assert status == 400, answer
    assert answer["error"]["message"]


def test_ten_megabytes_of_prompt(service: Service) -> None:
    message = {"role": "user", "content": "lorem ipsum " * 850_000}
    status, answer = service.post(CHAT, {"model": "sprout", "messages": [message]})
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"


def test_a_body_over_the_limit(service: Service) -> None:
    # The server may answer before it has read the whole body, so speak HTTP by hand.
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {1 << 40}\r\n\r\n"
        raw.sendall(head.encode())
        assert b" 413 " in raw.recv(4096).split(b"\r\n")[0]


def test_prompt_ids_out_of_range(service: Service) -> None:
    for ids in ([-1], [10**9], [10**30], [1.5], ["a", 1], [[]]):
        body = {"model": "sprout", "prompt": ids, "max_tokens": 1}
        status, answer = service.post("/v1/completions", body)
        assert status == 400, (ids, answer)


def test_unknown_paths_and_methods(service: Service) -> None:
    assert service.post("/v1/nothing", {})[0] == 404
    assert service.get(CHAT)[0] == 405


def test_prompt_over_the_context_names_the_counts(service: Service) -> None:
    body = {"model": "sprout", "prompt": [5] * 100_000, "max_tokens": 1}
    status, answer = service.post("/v1/completions", body)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "100000" in answer["error"]["message"].replace(",", "")


def test_a_body_that_never_comes_hurts_nobody(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{{".encode()
        )
        assert service.get("/livez")[0] == 200
