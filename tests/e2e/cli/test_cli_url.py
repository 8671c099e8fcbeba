"""`headrace generate --url` as a process before a server that is not ours: the wire by hand."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import connect
from service import free_port


class Server(ThreadingHTTPServer):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in "ab"]
        self.answer(200, "application/json", json.dumps({"object": "list", "data": models}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Server)
        self.server.asked.append((self.path, self.headers["authorization"], body))
        if self.headers["authorization"] != "Bearer right":
            error = {"message": "wrong key", "type": "x", "param": None, "code": "invalid_api_key"}
            self.answer(401, "application/json", json.dumps({"error": error}))
            return
        top = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        chunks: list[dict[str, Any]] = [
            {**top, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            for delta, finish in (
                ({"role": "assistant", "content": ""}, None),
                ({"content": "Grüße "}, None),
                ({"content": "🌊"}, None),
                ({}, "length"),
            )
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        chunks.append({**top, "choices": [], "usage": usage})
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.answer(200, "text/event-stream", "".join(events) + "data: [DONE]\n\n")

    def answer(self, status: int, media_type: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the test's output is the command's."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join(10)


def run(cwd: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headrace", "generate", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_an_answer_from_a_server(server: Server, tmp_path: Path) -> None:
    done = run(tmp_path, "hello", "--url", server.url, "--key", "right", "--max-tokens", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Grüße 🌊\n", "")
    path, _, body = server.asked[0]
    assert (path, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "a", 2)
    assert "temperature" not in body  # not given here, so the server's own holds


def test_json_and_the_model_by_name(server: Server, tmp_path: Path) -> None:
    words = ("hello", "--url", server.url, "--key", "right", "--model", "b", "--json")
    data = json.loads(run(tmp_path, *words).stdout)
    assert (data["model"], data["text"], data["finish_reason"]) == ("b", "Grüße 🌊", "length")
    assert data["usage"]["prompt_tokens"] == 7


def test_the_servers_refusal_is_the_error(server: Server, tmp_path: Path) -> None:
    done = run(tmp_path, "hello", "--url", server.url, "--key", "wrong")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "wrong key" in done.stderr


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "hello", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_strange_server_is_not_taken_for_ours(server: Server) -> None:
    assert not connect.answers("127.0.0.1", server.server_address[1])
    assert not connect.answers("127.0.0.1", free_port())
