"""`model.path = "none"`: a gateway before providers alone, in a process without an engine."""

import subprocess
import sys
from pathlib import Path

from service import running
from upstreams import Say, upstream

_SETTINGS = """
[model]
path = "none"
[providers.lab]
kind = "compatible"
url = "{url}"
[routes.big]
provider = "lab"
"""
_ANSWER = (
    b'data: {"id":"c","model":"big","created":1,"choices":[{"index":0,"delta":{"role":"assistant",'
    b'"content":"hello"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","model":"big","created":1,"choices":[],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)


def test_routes_alone_are_served_without_tokenizer_or_engine(tmp_path: Path) -> None:
    with upstream(Say(body=_ANSWER)) as fake:
        (tmp_path / "headrace.toml").write_text(_SETTINGS.format(url=fake.url))
        with running(tmp_path) as service:
            body = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
            status, answer = service.post("/v1/chat/completions", body)
            assert status == 200, answer
            assert answer["choices"][0]["message"]["content"] == "hello"
            assert answer["usage"]["completion_tokens"] == 1
            assert '"big"' in service.get("/v1/models")[1]
            assert "sprout" not in service.get("/v1/models")[1]
            assert service.get("/metrics")[0] == 200
            mapped = Path(f"/proc/{service.process.pid}/maps").read_text()
            for heavy in ("/tokenizers/", "/torch/", "/numpy/"):
                assert heavy not in mapped
            service.wait_logged("serves big at")


def test_nothing_to_serve_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "--set", "model.path=none", "serve", "--no-auth"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "[routes.NAME]" in done.stderr
