"""What the HTTP process burns: CPU a token, from the engine's socket to a client's.

    python bench/gateway.py                       # 1, 16 and 64 streams of chat, greedy answers
    python bench/gateway.py --out bench/results/NAME.json

The service is the real one, but its worker is this file: it loads nothing and gives each request a
token every `--step-ms`, as an engine does. The clients read from another process. On two cores,
what HTTP burns the kernels lose: `core_share` is that loss at this rate of tokens.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.bench.results import write_result
from headrace.config import Settings, load
from headrace.engine.request import EngineRequest
from headrace.types import FinishReason, TokenEvent, Usage

HERE = Path(__file__).resolve()


# --- the worker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    id: str
    event: TokenEvent


@dataclass
class Metronome:
    """A `worker.Core` that gives every request a token a beat."""

    step_s: float
    left: dict[str, int] = field(default_factory=dict[str, int])
    next_s: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def has_work(self) -> bool:
        return bool(self.left)

    def submit(self, request: EngineRequest) -> None:
        self.left[request.id] = request.sampling.max_tokens or 16

    def cancel(self, request_id: str, reason: FinishReason) -> list[Said]:
        if self.left.pop(request_id, None) is None:
            return []
        return [Said(request_id, TokenEvent(finish=reason, usage=Usage()))]

    def step(self) -> list[Said]:
        now = time.monotonic()
        self.next_s = max(self.next_s + self.step_s, now)
        time.sleep(self.next_s - now)
        said: list[Said] = []
        for name in list(self.left):
            self.left[name] -= 1
            ended = self.left[name] == 0
            event = TokenEvent(
                tokens=(self.draw.randrange(300, 2000),),
                finish=FinishReason.LENGTH if ended else None,
                usage=Usage(prompt_tokens=1, completion_tokens=1) if ended else None,
            )
            if ended:
                del self.left[name]
            said.append(Said(name, event))
        return said

    def stats(self) -> dict[str, float]:
        return {"running": len(self.left)}


def be_worker(fd: int, step_s: float) -> None:
    from headrace.engine.worker import Link, Worker
    from headrace.wire.frames import Ready

    link = Link(socket.socket(fileno=fd))
    link.receive(None)  # what to load: nothing
    link.send(
        Ready(
            pid=os.getpid(),
            vocab_size=4096,
            context_tokens=4096,
            fingerprint="",
            dtype="float32",
            device="cpu",
            threads=1,
            kernels="none",
            load_s=0.0,
        )
    )
    Worker(Metronome(step_s), link, drain_s=1.0).run()


# --- the service -----------------------------------------------------------------------------


def be_service(port: int, step_s: float) -> None:
    from headrace import app
    from headrace.engine import client

    class Client(client.EngineClient):
        def __init__(self, path: Path, settings: Settings) -> None:
            command = (sys.executable, str(HERE), "--worker", str(step_s))
            super().__init__(path, settings, command=command)

    client.EngineClient = Client  # pyright: ignore[reportPrivateImportUsage]
    sets = (f"server.port={port}", "server.auth=false", "server.drain_s=1")
    app.serve(load(sets=sets, environ={}), say=lambda line: print(line, flush=True))


def cpu_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the clients -----------------------------------------------------------------------------


async def one_stream(port: int, tokens: int) -> tuple[int, float]:
    """Read one answer: its chunks with text, and the seconds it took."""
    body = {
        "model": "sprout",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": tokens,
        "stream": True,
        "temperature": 0,
    }
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    began = time.monotonic()
    writer.write(head.encode() + data)
    chunks, tail = 0, b""
    while b"[DONE]" not in tail:
        part = await reader.read(1 << 16)
        if not part:
            raise RuntimeError(f"the stream broke off: {tail[-200:]!r}")
        chunks += part.count(b'"content":')
        tail = (tail + part)[-4096:]
    writer.close()
    return chunks, time.monotonic() - began


async def streams(port: int, count: int, tokens: int) -> list[tuple[int, float]]:
    return list(await asyncio.gather(*(one_stream(port, tokens) for _ in range(count))))


def wait_ready(port: int) -> None:
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
                probe.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                if b" 200 " in probe.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready")


def measure(pid: int, port: int, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    asyncio.run(streams(port, count, 16))
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        before, began = cpu_s(pid), time.monotonic()
        answers = asyncio.run(streams(port, count, tokens))
        spent, took = cpu_s(pid) - before, time.monotonic() - began
        assert sum(chunks for chunks, _ in answers) >= 0.9 * count * tokens, "text is missing"
        found.append(
            {
                "us_per_token": spent / (count * tokens) * 1e6,
                "core_share": spent / took,
                "tokens_s": count * tokens / took,
            }
        )
    found.sort(key=lambda item: item["us_per_token"])
    return {"streams": count, "median": found[len(found) // 2], "all": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=25.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--service", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        be_worker(options.fd, options.worker)
        return
    if options.service is not None:
        be_service(options.service, options.step_ms / 1e3)
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, str(HERE), "--service", str(port)]
        service = subprocess.Popen(
            [*command, "--step-ms", str(options.step_ms)],
            cwd=empty,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_ready(port)
            results: list[dict[str, Any]] = []
            for count in options.streams:
                results.append(measure(service.pid, port, count, options.tokens, options.rounds))
                middle = results[-1]["median"]
                print(
                    f"{count:4} streams: {middle['us_per_token']:6.0f} us of CPU a token, "
                    f"{middle['tokens_s']:6.0f} tokens/s, {middle['core_share']:.3f} of a core",
                    flush=True,
                )
        finally:
            service.terminate()
            service.wait(20)
    if options.out is not None:
        arguments = {"tokens": options.tokens, "step_ms": options.step_ms}
        write_result(options.out, what="gateway CPU", arguments=arguments, result=results)


if __name__ == "__main__":
    main()
