"""Identity, health, tokenize/detokenize/render and the page, on the real service."""

import re
from pathlib import Path

import pytest

from service import call, running


def test_first_start_prints_a_key_once(tmp_path: Path) -> None:
    body = b'{"model": "sprout", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}'
    with running(tmp_path, auth=True) as service:
        service.wait_logged("Ctrl-C stops it")
        found = re.search(r"hr-[\w-]{20,}", service.log.read_text())
        assert found, service.log.read_text()
        key = found.group()
        url = service.url + "/v1/chat/completions"
        assert call(url, data=body)[0] == 401
        assert call(url, data=body, headers={"authorization": "Bearer hr-wrong"})[0] == 401
        assert call(url, data=body, headers={"authorization": f"Bearer {key}"})[0] == 200
        for path in ("/livez", "/readyz", "/startupz"):
            assert service.get(path)[0] == 200
    stored = [path for path in service.state_dir.rglob("*") if path.is_file()]
    assert stored
    assert all(key.encode() not in path.read_bytes() for path in stored)
    assert all(path.stat().st_mode & 0o077 == 0 for path in stored)
    service.log.unlink()
    with running(tmp_path, auth=True) as again:
        assert call(again.url + "/v1/models", headers={"authorization": f"Bearer {key}"})[0] == 200
        assert key not in again.log.read_text()


def test_tokenize_detokenize_render_and_page(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        text = "import os  # héllo <|im_start|> 🙂\n"
        body = {"model": "sprout", "prompt": text, "add_special_tokens": False}
        status, tokens = service.post("/tokenize", body)
        assert status == 200
        assert tokens["count"] == len(tokens["tokens"])
        body = {"model": "sprout", "tokens": tokens["tokens"]}
        assert service.post("/detokenize", body)[1]["prompt"] == text
        messages = [{"role": "user", "content": text}]
        status, rendered = service.post("/render", {"model": "sprout", "messages": messages})
        assert status == 200, rendered
        chat = {"model": "sprout", "messages": messages, "max_tokens": 1}
        usage = service.post("/v1/chat/completions", chat)[1]["usage"]
        assert usage["prompt_tokens"] == len(rendered["token_ids"])
        status, page = service.get("/")
        assert status == 200
        assert "<html" in page.lower()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_auth_is_refused_off_loopback(host: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "headrace", "serve", "--no-auth", "--host", host],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "loopback" in done.stderr
