"""Money on the real service: held, settled, clamped, refused; and kill -9 in the middle."""

import contextlib
import io
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from headrace.cli import main
from service import Service, call, running


def headrace(service: Service, *words: str) -> str:
    out = io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out):
        main(["--set", f"paths.state_dir={service.state_dir}", *words])
    assert not stop.value.code, out.getvalue()
    return out.getvalue()


def ask(service: Service, key: str, **more: object) -> tuple[int, dict[str, str], str]:
    body = {"model": "sprout", "messages": [{"role": "user", "content": "hi"}], **more}
    request = urllib.request.Request(
        service.url + "/v1/chat/completions", data=json.dumps(body).encode()
    )
    request.add_header("content-type", "application/json")
    request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_a_budget_is_held_to_and_survives_kill_9(tmp_path: Path) -> None:
    with running(tmp_path, auth=True) as service:
        service.wait_logged("Ctrl-C stops it")
        found = re.search(r"hr-[\w-]{20,}", service.log.read_text())
        assert found
        admin = {"authorization": f"Bearer {found.group()}"}
        status, text = call(service.url + "/v1/admin/whoami", headers=admin)
        assert (status, json.loads(text)["role"]) == (200, "admin")
        assert call(service.url + "/v1/admin/keys")[0] == 401
        headrace(service, "spend", "price", "sprout", "--input", "1", "--output", "10")
        made = json.loads(headrace(service, "keys", "make", "--json"))
        key = made["token"]
        status, _, text = ask(service, key, max_tokens=4)
        assert status == 200
        used = json.loads(text)["usage"]
        cost = used["prompt_tokens"] * 1000 + used["completion_tokens"] * 10_000
        # Money for the prompt and twelve tokens; an answer of a hundred is made to fit.
        money = used["prompt_tokens"] * 1000 + 12 * 10_000
        headrace(service, "budgets", "set", f"key:{made['id']}", f"0.{money:09d}")
        time.sleep(1.5)
        status, headers, text = ask(service, key, max_tokens=100, ignore_eos=True)
        assert status == 200, text
        assert headers["x-headrace-max-tokens"] == "12"
        answer = json.loads(text)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 12
        status, headers, text = ask(service, key, max_tokens=1)
        assert status == 402, text
        error = json.loads(text)["error"]
        assert (error["code"], error["limit"]["left"]) == ("budget_exceeded", 0)
        assert int(headers["retry-after"]) > 0
        # Streams, completions, and a client that leaves: all in the books.
        other = json.loads(headrace(service, "keys", "make", "--json"))["token"]
        status, _, text = ask(
            service, other, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        assert status == 200
        assert '"completion_tokens"' in text
        raw = b'{"model": "sprout", "prompt": ["a b", "c"], "max_tokens": 3}'
        header = {"authorization": f"Bearer {other}"}
        assert call(service.url + "/v1/completions", data=raw, headers=header)[0] == 200
        time.sleep(0.5)
        lines = json.loads(headrace(service, "spend", "show", "--by", "key,route", "--json"))
        assert {(line["route"], line["requests"]) for line in lines} == {
            ("/v1/chat/completions", 2),
            ("/v1/chat/completions", 1),
            ("/v1/completions", 1),
        }
        [own] = [line for line in lines if line["key"] == made["id"]]
        assert own["cost_nanousd"] == cost + money
        assert "the books balance" in headrace(service, "ledger", "verify")
        ask(service, other, max_tokens=2)
        service.process.kill()
        service.process.wait()
    service.log.unlink()
    with running(tmp_path, auth=True) as again:
        again.wait_logged("booked what worker")
        report = json.loads(headrace(again, "ledger", "verify", "--json"))
        assert report["findings"] == []
        assert (report["transactions"], report["reserved_nanousd"]) == (5, 0)
        assert ask(again, key, max_tokens=1)[0] == 402
