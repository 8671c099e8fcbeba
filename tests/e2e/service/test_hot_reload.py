"""`headrace serve` while its settings file changes: nothing is lost, nothing wrong taken."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service import running
from upstreams import OPENAI_ANSWER, Say, upstream

BODY = {"model": "old", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def test_routes_come_and_go_while_a_stream_runs(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    slow = Say(OPENAI_ANSWER.replace(b"data: [DONE]\n\n", b""), stall_s=4.0)
    with upstream(slow) as peer:
        provider = f'[providers.p]\nkind = "compatible"\nurl = "{peer.url}"\n'
        write(file, provider + '[routes.old]\nprovider = "p"\nmodel = "m"\n')
        with running(tmp_path, sets=(f"store.url=sqlite:///{tmp_path / 'h.db'}",)) as service:

            def models() -> set[str]:
                return {card["id"] for card in json.loads(service.get("/v1/models")[1])["data"]}

            def state() -> dict[str, Any]:
                return json.loads(service.get("/v1/admin/config")[1])

            assert models() == {"sprout", "old"}
            request = urllib.request.Request(
                service.url + "/v1/chat/completions",
                data=json.dumps(BODY).encode(),
                headers={"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as stream:
                first = stream.readline()
                assert first.startswith(b"data:")
                write(file, provider + '[routes.new]\nprovider = "p"\nmodel = "m"\n')
                until(lambda: models() == {"sprout", "new"})
                assert service.post("/v1/chat/completions", BODY)[0] == 404
                rest = stream.read()
            assert b"tool_calls" in rest  # the answer went on to its end on what it began with
            assert state()["accepted"]

            write(file, '[routes.new]\nprovider = "nobody"\n')
            until(lambda: not state()["accepted"])
            assert "nobody" in state()["error"]
            assert models() == {"sprout", "new"}
            status, ready = service.get("/readyz")
            assert status == 200
            assert "rejected" in ready
            assert service.gauge("headrace_config_accepted") == 0
            service.wait_logged("the settings are kept as they were")

            write(file, provider + "[engine]\nmax_running = 3\n")
            os.kill(service.process.pid, signal.SIGHUP)
            until(lambda: models() == {"sprout"})
            assert state()["restart"] == ["engine.max_running = 3 (still 128)"]
            assert json.loads(service.get("/readyz")[1]) == {"status": "ok"}

            def audited() -> list[dict[str, Any]]:
                return json.loads(service.get("/v1/admin/audit?action=config.")[1])["data"]

            until(lambda: len(audited()) == 3)
            last, refused, first_change = audited()
            assert (first_change["action"], first_change["actor"]) == (
                "config.reload",
                "file watcher",
            )
            assert first_change["subject"] == str(file)
            assert {"routes.old.provider", "routes.new.provider"} <= set(
                first_change["detail"]["changed"]
            )
            assert (refused["action"], refused["actor"]) == ("config.refuse", "file watcher")
            assert "nobody" in refused["detail"]["error"]
            assert last["actor"] in ("SIGHUP", "file watcher")  # whoever looked first
            assert last["detail"]["restart"] == ["engine.max_running"]
            assert peer.url not in json.dumps(audited())  # names of settings, never their values
