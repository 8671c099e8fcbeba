"""`headrace serve` becomes a process that carries nothing of what read its arguments."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_service_is_the_same_process_without_what_read_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(
        '[model]\npath = "none"\n[providers.p]\nkind = "compatible"\nurl = "http://127.0.0.1:9"\n'
        '[routes.r]\nprovider = "p"\n'
    )
    words = [sys.executable, "-X", "utf8", "-m", "headrace", "--set", "logs.level=error", "serve"]
    process = subprocess.Popen(
        [*words, "--port", "0", "--no-auth"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        if sys.platform == "linux":
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            assert command[1:5] == [b"-X", b"utf8", b"-m", b"headrace.cli.serving"]
            loaded = Path(f"/proc/{process.pid}/maps").read_text()
            assert "pydantic_core" not in loaded
            assert "aiohttp" not in loaded
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--port", "x"], "a valid integer"),
        (["--set", "server.prot=1", "serve"], "unknown setting"),
        (["--set", "store.url=ftp://x", "serve", "none"], "is not supported"),
        (["serve", "none", "--no-auth", "--host", "0.0.0.0"], "only a loopback address"),
    ],
)
def test_what_cannot_be_is_one_line_and_two(words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
