"""kill -9 in the middle of a batch: each line is in the output once and in the ledger once."""

import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import openai

from service import Service, running
from upstreams import Asked, Say, upstream

LINES = 24
_SETTINGS = """
[model]
path = "none"
[batches]
provider_lines = 4
[providers.lab]
kind = "openai"
url = "{url}"
key = "file:{key}"
[routes.small]
provider = "lab"
model = "gpt-4o-mini"
"""


def answer(asked: Asked) -> Say:
    """The question again, after a while; ten tokens in, three out."""
    question = asked.json["messages"][-1]["content"]
    time_s, usage = 1, {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    head: dict[str, Any] = {"id": "c", "model": "gpt-4o-mini", "created": time_s}
    if not asked.json.get("stream"):
        message = {"role": "assistant", "content": f"re: {question}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        return Say(json.dumps(body).encode(), kind="application/json", hang_s=0.15)
    delta = {"index": 0, "delta": {"content": f"re: {question}"}, "finish_reason": "stop"}
    frames = [head | {"choices": [delta]}, head | {"choices": [], "usage": usage}]
    text = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
    return Say(text.encode(), hang_s=0.15)


def admin_key(service: Service) -> str:
    service.wait_logged("Admin key, shown once: ")
    return service.log.read_text().partition("Admin key, shown once: ")[2].split()[0]


def client(service: Service, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url + "/v1", api_key=key, max_retries=0)


def test_killed_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with upstream(answer) as fake:
        settings = _SETTINGS.format(url=fake.url, key=tmp_path / "key")
        (tmp_path / "headrace.toml").write_text(settings)
        asked = "".join(
            json.dumps(
                {
                    "custom_id": f"c{at}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {
                        "model": "small",
                        "max_tokens": 50,
                        "messages": [{"role": "user", "content": f"q{at}"}],
                    },
                }
            )
            + "\n"
            for at in range(LINES)
        )
        with running(tmp_path, auth=True) as service:
            key = admin_key(service)
            with client(service, key) as api:
                file = api.files.create(file=("in.jsonl", asked.encode()), purpose="batch")
                batch = api.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            until = time.monotonic() + 30
            while len(fake.asked) < 9:
                assert time.monotonic() < until, service.log.read_text()
                time.sleep(0.005)
            service.process.send_signal(signal.SIGKILL)
            service.process.wait(10)
        with running(tmp_path, auth=True) as service, client(service, key) as api:
            until = time.monotonic() + 60
            while (now := api.batches.retrieve(batch.id)).status != "completed":
                assert time.monotonic() < until, (now, service.log.read_text())
                time.sleep(0.05)
            assert now.request_counts is not None
            assert (now.request_counts.completed, now.request_counts.failed) == (LINES, 0)
            rows = [
                json.loads(line)
                for line in api.files.content(now.output_file_id or "").text.splitlines()
            ]
    assert [row["custom_id"] for row in rows] == [f"c{at}" for at in range(LINES)]
    for at, row in enumerate(rows):
        assert row["response"]["body"]["choices"][0]["message"]["content"] == f"re: q{at}"
    again = len(fake.asked) - LINES
    assert 0 <= again <= 4  # what ran when it was killed, and nothing else
    with sqlite3.connect(tmp_path / "state" / "headrace.db") as store:
        booked = store.execute(
            "SELECT id, batch, kind, prompt_tokens, completion_tokens, cost_nanousd "
            "FROM transactions"
        ).fetchall()
        held = store.execute("SELECT count(*) FROM holds").fetchone()
        [unbalanced] = store.execute("SELECT sum(amount_nanousd) FROM postings").fetchone()
    store.close()
    assert {row[0] for row in booked} == {row["response"]["request_id"] for row in rows}
    assert len(booked) == LINES
    assert {row[1:5] for row in booked} == {(batch.id, "settled", 10, 3)}
    assert len({row[5] for row in booked}) == 1
    assert booked[0][5] > 0
    assert held == (0,)
    assert unbalanced == 0
