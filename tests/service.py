"""Start a real `headrace serve` on a free port and stop it; shared by the end-to-end tests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 120.0


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        return call(self.url + path)

    def post(
        self, path: str, body: bytes | dict[str, Any], **headers: str
    ) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, text = call(self.url + path, data=data, headers=headers)
        return status, json.loads(text)

    def gauge(self, name: str) -> float:
        """Sum of a metric's samples over its labels."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        found = [line for line in lines if line[len(name)] in " {"]
        assert found, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def worker_pid(self) -> int:
        """The engine's process: the child that runs headrace.engine.worker."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
                if parent == self.process.pid and b"headrace.engine.worker" in command:
                    return int(entry.name)
        raise AssertionError("the service has no worker process")

    def wait_logged(self, text: str, timeout_s: float = 10.0) -> None:
        """Until what the service printed has the text."""
        until = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def wait_ready(self, timeout_s: float = START_S) -> float:
        """Seconds until /readyz says 200."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"serve exited {self.process.returncode}: {self.log.read_text()}"
                )
            with contextlib.suppress(OSError):
                if self.get("/readyz")[0] == 200:
                    return time.monotonic() - began
            time.sleep(0.05)
        raise AssertionError(f"not ready in {timeout_s} s: {self.log.read_text()}")


def call(
    url: str, *, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    request = urllib.request.Request(url, data=data, headers=headers or {})
    if data is not None:
        request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(
    directory: Path, *arguments: str, auth: bool = False, sets: Sequence[str] = ()
) -> Generator[Service]:
    """A ready service; its log and state lie in `directory`."""
    port = free_port()
    log = directory / "serve.log"
    state_dir = directory / "state"
    command = [sys.executable, "-m", "headrace"]
    for item in (f"paths.state_dir={state_dir}", "engine.threads=1", *sets):
        command += ["--set", item]
    command += ["serve", *arguments, "--port", str(port)]
    command += [] if auth else ["--no-auth"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=directory
        )
    service = Service(process, port, log, state_dir)
    try:
        service.wait_ready()
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
