"""The gateways that bench/proxies.py starts, each in a directory of its own, one worker each.

headrace runs with everything on: keys, limits of money, requests and tokens on organization, team
and key, a price, the ledger; SQLite, so that the database's work is in its process. LiteLLM checks
its master key (virtual keys need a database and a download). Portkey checks nothing.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. " * 4},
    {"role": "user", "content": "Why is the sky blue? Answer in one short paragraph."},
]
_HEADRACE = """
[model]
path = "none"
[store]
url = "sqlite:///{directory}/headrace.db"
[providers.fake]
kind = "compatible"
url = "http://127.0.0.1:{upstream}"
stream_always = {stream_always}
[routes.fake]
provider = "fake"
context_tokens = 8192
"""
_LITELLM = """
model_list:
  - model_name: fake
    litellm_params:
      model: openai/fake
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: sk-fake
general_settings:
  master_key: sk-bench
litellm_settings:
  telemetry: false
"""


@dataclass(kw_only=True)
class Gateway:
    """One running contestant."""

    name: str
    port: int
    headers: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    def request(self, *, stream: bool, tokens: int) -> bytes:
        """The bytes of one call."""
        body: dict[str, Any] = {"model": "fake", "messages": MESSAGES, "max_tokens": tokens}
        if stream:
            body["stream"] = True
        data = json.dumps(body).encode()
        head = {
            "Host": "127.0.0.1",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + data

    def cpu_s(self) -> float:
        """Processor time of its process and all below it."""
        if self.process is None:
            return 0.0
        return sum(_cpu_s(pid) for pid in family(self.process.pid))

    def rss_mb(self) -> float:
        if self.process is None:
            return 0.0
        return sum(_rss_mb(pid) for pid in family(self.process.pid))

    def stop(self) -> None:
        """End it and what it started."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            for pid in family(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()


def start_headrace(
    python: str, port: int, upstream: int, directory: Path, *, stream_always: bool = False
) -> Gateway:
    """Ready, with a key whose every limit counts."""
    (directory / "headrace.toml").write_text(
        _HEADRACE.format(
            directory=directory, upstream=upstream, stream_always=str(stream_always).lower()
        )
    )
    run = [python, "-m", "headrace", "--set", f"paths.state_dir={directory}/state"]

    def admin(*words: str) -> str:
        done = subprocess.run(
            [*run, *words], cwd=directory, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    key = json.loads(admin("keys", "make", "--json"))
    admin("spend", "price", "fake/fake", "--input", "0.15", "--output", "0.60")
    admin("budgets", "set", "org:default", "1000000")
    admin("budgets", "set", "team:default", "100000", "--window", "day")
    admin("budgets", "set", f"key:{key['id']}", "10000")
    minute = ("--window", "minute")
    admin("budgets", "set", f"key:{key['id']}", "10000000", "--unit", "requests", *minute)
    admin("budgets", "set", f"key:{key['id']}", "10000000000", "--unit", "output_tokens", *minute)
    process = _spawn([*run, "serve", "--port", str(port)], directory, {})
    gateway = Gateway(
        name="headrace",
        port=port,
        headers={"Authorization": f"Bearer {key['token']}"},
        process=process,
    )
    _wait(gateway, f"http://127.0.0.1:{port}/readyz", directory)
    return gateway


def start_litellm(folder: Path, port: int, upstream: int, directory: Path) -> Gateway:
    """LiteLLM's proxy from a virtual environment."""
    (directory / "config.yaml").write_text(_LITELLM.format(upstream=upstream))
    command = [str(folder / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    process = _spawn([*command, "--port", str(port)], directory, environment)
    gateway = Gateway(
        name="litellm",
        port=port,
        headers={"Authorization": "Bearer sk-bench"},
        process=process,
        versions={"litellm": _python_version(folder, "litellm")},
    )
    _wait(gateway, f"http://127.0.0.1:{port}/health/liveliness", directory)
    return gateway


def start_portkey(folder: Path, port: int, upstream: int, directory: Path) -> Gateway:
    """Portkey's gateway from a folder with its npm package."""
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    command = ["node", str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    process = _spawn(command, directory, {"NODE_ENV": "production"})
    gateway = Gateway(
        name="portkey",
        port=port,
        headers={
            "Authorization": "Bearer sk-fake",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        },
        process=process,
        versions={"portkey": json.loads((package / "package.json").read_text())["version"]},
    )
    _wait(gateway, f"http://127.0.0.1:{port}/", directory)
    return gateway


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _spawn(
    command: Sequence[str], directory: Path, more: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **more},
        )


def _wait(gateway: Gateway, url: str, directory: Path) -> None:
    until = time.monotonic() + 90
    assert gateway.process is not None
    while time.monotonic() < until and gateway.process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    gateway.stop()
    raise RuntimeError(f"{gateway.name} is not ready: {(directory / 'log').read_text()[-2000:]}")


def _cpu_s(pid: int) -> float:
    """Nanoseconds on a processor, by thread: finer than the ticks of /proc/PID/stat."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def _rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1000 if found else 0.0


def _python_version(folder: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [str(folder / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
