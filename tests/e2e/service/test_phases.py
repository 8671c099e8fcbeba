"""Where the time of a real request went: queue, prefill and decode add up to what it took."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

from service import call, running

LONG = "What does os.path.join do, and why is it better than adding strings? " * 12


class Keyed:
    """A service that leaves traces, with its admin's key."""

    def __init__(self, url: str, log: str) -> None:
        found = re.search(r"hr-[\w-]{20,}", log)
        assert found
        self._url = url
        self._headers = {"authorization": f"Bearer {found.group()}"}

    def get(self, path: str) -> str:
        status, text = call(self._url + path, headers=self._headers)
        assert status == 200, text
        return text

    def ask(self, user: str, tokens: int, *, text: str = LONG) -> None:
        body = {
            "model": "sprout",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "user": user,
            "stream": True,
        }
        data = json.dumps(body).encode()
        status, said = call(
            self._url + "/v1/chat/completions", data=data, headers=dict(self._headers)
        )
        assert status == 200, said

    def explain(self, user: str) -> dict[str, Any]:
        found = json.loads(self.get(f"/v1/admin/traces?end_user={user}"))["data"]
        return json.loads(self.get(f"/v1/requests/{found[0]['id']}/explain"))

    def wait_running(self) -> None:
        until = time.monotonic() + 20
        while not re.search(
            r"^headrace_engine_running(_requests)? [1-9]", self.get("/metrics"), re.M
        ):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_who_waits_for_another_sees_it_in_the_queue(tmp_path: Path) -> None:
    with running(tmp_path, auth=True, sets=("engine.max_running=1",)) as started:
        started.wait_logged("Ctrl-C stops it")
        service = Keyed(started.url, started.log.read_text())
        service.ask("warm", 4, text="hello")  # what is made once, is
        first = threading.Thread(target=service.ask, args=("long", 200))
        first.start()
        service.wait_running()
        service.ask("waits", 8, text=LONG + "Second.")
        first.join(timeout=60)
        long, waits = service.explain("long"), service.explain("waits")
    for found in (long, waits):
        spans = {span["name"]: span for span in found["spans"]}
        model, queue, prefill, decode = (
            spans[name] for name in ("chat sprout", "queue", "prefill", "decode")
        )
        assert queue["start_s"] == model["start_s"]
        assert queue["end_s"] == prefill["start_s"] < prefill["end_s"] == decode["start_s"]
        assert abs(prefill["end_s"] - found["timings"]["first_token_s"]) < 1e-5
        assert decode["end_s"] <= model["end_s"] + 1e-5
    took = {span["name"]: span["end_s"] - span["start_s"] for span in waits["spans"]}
    assert took["queue"] > took["prefill"]  # behind 200 tokens of another
