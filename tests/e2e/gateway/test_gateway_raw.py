"""Bytes on a socket that no client library would send, and readers that do not read."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway_server import Gateway, serving
from headrace.gateway.asgi import Health, Limits, Services
from headrace.observe.metrics import EngineStats
from headrace.testing import Step
from headrace.types import Started, TextDelta

CHAT = "/v1/chat/completions"
GOOD = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serving() as running:
        yield running
        assert call(running, "POST", CHAT, GOOD)[0] == 200


def call(
    gateway: Gateway, method: str, path: str, body: bytes | dict[str, Any] = b""
) -> tuple[int, dict[str, str], bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n"
    raw = gateway.raw(head.encode() + b"connection: close\r\n\r\n" + data, read_all=True)
    top, _, rest = raw.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    headers = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines}
    return int(status.split(" ")[1]), headers, rest


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "m", "messages": NaN}',
        b'{"model": "m", "model": "n", "messages": []}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        json.dumps({**GOOD, "max_tokens": 10**30}).encode(),
        json.dumps({**GOOD, "seed": 2**64}).encode(),
        json.dumps({**GOOD, "stream": "yes"}).encode(),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/detokenize", "/render"])
def test_malformed_bodies(gateway: Gateway, path: str, body: bytes) -> None:
    status, headers, answer = call(gateway, "POST", path, body)
    assert status == 400
    error = json.loads(answer)["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["request_id"] == headers["x-request-id"]


def test_ten_megabytes(gateway: Gateway) -> None:
    text = "lorem ipsum " * 850_000
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    assert call(gateway, "POST", CHAT, body)[0] == 200
    request = gateway.backend.requests[-1]
    assert request.messages[0].text == text  # pyright: ignore[reportAttributeAccessIssue]


def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    status, _, answer = call(gateway, "POST", "/v1/nothing")
    assert status == 404
    assert CHAT in json.loads(answer)["error"]["message"]
    status, headers, _ = call(gateway, "GET", CHAT)
    assert (status, headers["allow"]) == (405, "POST")
    assert call(gateway, "POST", "/livez")[0] == 405
    assert call(gateway, "GET", "/v1/models/other")[0] == 404


def test_tokenize_detokenize_render(gateway: Gateway) -> None:
    body = {"model": "m", "prompt": "hé", "return_token_strs": True}
    answer = json.loads(call(gateway, "POST", "/tokenize", body)[2])
    assert answer["tokens"] == [256, *"hé".encode()]
    assert answer["count"] == len(answer["token_strs"]) == 4
    assert answer["max_model_len"] == 4096
    body = {"model": "m", "prompt": "hé", "add_special_tokens": False}
    assert json.loads(call(gateway, "POST", "/tokenize", body)[2])["count"] == 3
    body = {"model": "m", "tokens": [256, *"hé".encode()]}
    assert json.loads(call(gateway, "POST", "/detokenize", body)[2]) == {"prompt": "hé"}
    rendered = json.loads(call(gateway, "POST", "/render", GOOD)[2])
    chat = json.loads(call(gateway, "POST", "/tokenize", GOOD)[2])
    assert rendered["token_ids"] == chat["tokens"] == [256, ord("x")]
    assert rendered["spans"][1]["label"]["integrity"] == "user"
    assert call(gateway, "POST", "/render", {**GOOD, "temperature": 1})[0] == 400


def test_stream_headers(gateway: Gateway) -> None:
    status, headers, body = call(gateway, "POST", CHAT, {**GOOD, "stream": True})
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert b"data: [DONE]\n\n" in body


def test_limits_of_a_body() -> None:
    base = Services(models={}, limits=Limits(max_body_bytes=1000, body_s=0.3))
    with serving(base=base) as gateway:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n"
        declared = gateway.raw(f"{head}content-length: {1 << 40}\r\n\r\n".encode())
        assert b" 413 " in declared.split(b"\r\n")[0]
        assert b"connection: close" in declared
        chunked = head + "transfer-encoding: chunked\r\n\r\n7d0\r\n" + "x" * 2000
        assert b" 413 " in gateway.raw(chunked.encode()).split(b"\r\n")[0]
        began = time.monotonic()
        slow = gateway.raw(f"{head}content-length: 50\r\n\r\n{{".encode())
        assert b" 408 " in slow.split(b"\r\n")[0]
        assert time.monotonic() - began < 3
        assert b"connection: close" in slow
        gateway.wait(lambda: len(gateway.records.seen) == 3)
        assert {record.status for record in gateway.records.seen} == {408, 413}


def test_leaving_in_the_middle_of_the_body(gateway: Gateway) -> None:
    before = len(gateway.records.seen)
    with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
        peer.sendall(
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{{".encode()
        )
        time.sleep(0.05)
    gateway.wait(lambda: len(gateway.records.seen) > before)
    assert gateway.last().finish == "abort"


def test_a_reader_that_does_not_read_holds_the_backend_back() -> None:
    made = 0

    def flood(request: Any) -> Iterator[Step]:
        nonlocal made
        yield Started(id="x", model="m", created_s=1, prompt_tokens=1)
        while made < 100_000:
            made += 1
            yield TextDelta(text="y" * 1000)

    base = Services(models={}, limits=replace(Limits(), send_s=0.5, max_unsent_bytes=10_000))
    with serving(flood, base=base) as gateway:
        body = json.dumps({**GOOD, "stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", gateway.port))
            peer.sendall(head.encode() + body)
            gateway.wait(lambda: bool(gateway.records.seen))
        assert gateway.last().finish == "abort"
        assert gateway.backend.running == 0
        assert made < 20_000  # 20 MB: what the kernel's own buffers took


def test_health_and_metrics() -> None:
    state = Health(started=False, ready=False, reason="loading weights")

    async def stats() -> EngineStats:
        return EngineStats(running=3, kv_blocks_total=10, tokens={"prompt": 5})

    base = Services(models={}, health=lambda: state, engine_stats=stats)
    with serving(base=base) as gateway:
        assert call(gateway, "GET", "/livez")[0] == 200
        status, headers, answer = call(gateway, "GET", "/readyz")
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"loading weights" in answer
        assert call(gateway, "GET", "/startupz")[0] == 503
        state = Health()
        assert call(gateway, "GET", "/readyz")[0] == 200
        assert call(gateway, "GET", "/startupz")[0] == 200
        assert call(gateway, "POST", CHAT, GOOD)[0] == 200
        text = call(gateway, "GET", "/metrics")[2].decode()
        assert "headrace_engine_running 3.0" in text
        assert 'headrace_tokens_total{kind="completion",model="m"} 3.0' in text
        assert f'headrace_requests_in_flight{{route="{CHAT}"}} 0.0' in text


def test_a_mounted_application() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    with serving(base=Services(models={}, extra={"/": page, "/static/": page})) as gateway:
        assert b"/static/a.js" in call(gateway, "GET", "/static/a.js")[2]
        assert call(gateway, "GET", "/")[0] == 200
        assert call(gateway, "GET", "/else")[0] == 404
