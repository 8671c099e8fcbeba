"""`headrace serve` with an encoder and no language model: a key, a budget, the books."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

import encoders
from headrace.cli import main
from service import Service, call, running


def _headrace(service: Service, *words: str) -> str:
    out = io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out):
        main(["--set", f"paths.state_dir={service.state_dir}", *words])
    assert not stop.value.code, out.getvalue()
    return out.getvalue()


def _ask(service: Service, key: str, **more: object) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"model": "tiny", **more}).encode()
    header = {"authorization": f"Bearer {key}"}
    status, text = call(service.url + "/v1/embeddings", data=body, headers=header)
    return status, json.loads(text)


def _booked(service: Service, key: str) -> dict[str, Any]:
    """The key's line of the books, which follow an answer in a moment."""
    until = time.monotonic() + 10
    while True:
        lines = json.loads(_headrace(service, "spend", "show", "--by", "key,route", "--json"))
        if found := [line for line in lines if line["key"] == key]:
            [own] = found
            return own
        assert time.monotonic() < until, "nothing was booked"
        time.sleep(0.1)


def test_vectors_are_held_and_booked(tmp_path: Path) -> None:
    checkpoint = encoders.make(tmp_path / "m", max_tokens=20)
    sets = (
        "model.path=none",
        f"embeddings.path={checkpoint}",
        "embeddings.name=tiny",
        "embeddings.threads=1",
    )
    with running(tmp_path, auth=True, sets=sets) as service:
        made = json.loads(_headrace(service, "keys", "make", "--json"))
        key = made["token"]
        _headrace(service, "budgets", "set", f"key:{made['id']}", "20", "--unit", "input_tokens")
        status, answer = _ask(service, key, input=["the of", "and"])
        assert status == 200, answer
        assert [len(item["embedding"]) for item in answer["data"]] == [48, 48]
        assert answer["usage"]["prompt_tokens"] == 7
        status, answer = _ask(service, key, input="the of and to in a is that for it was on")
        assert status == 429, answer
        assert answer["error"]["limit"]["left"] == 13
        status, answer = _ask(service, key, input="the " * 30)
        assert status == 400, answer
        assert "32 tokens and the model reads 20" in answer["error"]["message"]
        own = _booked(service, made["id"])
        assert own["route"] == "/v1/embeddings"
        assert own["prompt_tokens"] == 7
        assert "the books balance" in _headrace(service, "ledger", "verify")
        header = {"authorization": f"Bearer {key}"}
        models = json.loads(call(service.url + "/v1/models", headers=header)[1])
        assert [model["id"] for model in models["data"]] == ["tiny"]
