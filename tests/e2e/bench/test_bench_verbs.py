"""`headrace bench` end to end on the bundled model: every token asked for is counted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import service


def bench(*words: str) -> Any:
    command = [sys.executable, "-m", "headrace", "--set", "engine.threads=1", "bench", *words]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["result"]


def test_serve(tmp_path: Path) -> None:
    with service.running(tmp_path) as server:
        result = bench(
            *("serve", "--url", server.url, "--requests", "6", "--max-concurrency", "3"),
            *("--input-tokens", "20-30", "--output-tokens", "5", "--out", str(tmp_path / "r.json")),
        )
        assert (result["completed"], result["failed"]) == (6, 0)
        assert result["total_output_tokens"] == 30
        assert result["peak_concurrent_requests"] <= 3
        assert 0 < result["ttft"]["median_ms"] <= result["e2el"]["median_ms"]
        assert result["itl"]["count"] == 6 * 4, "a chunk a token"
    kept = json.loads((tmp_path / "r.json").read_text())
    assert len(kept["result"]["records"]) == 6
    assert kept["arguments"]["input_tokens"] == "20-30"


def test_latency_and_throughput() -> None:
    sizes = ("--input-tokens", "16", "--output-tokens", "4")
    result = bench("latency", "--batch", "2", "--iterations", "2", "--warmup", "1", *sizes)
    assert result["latency"]["count"] == 2
    assert result["decode_throughput"] > 0
    result = bench("throughput", "--sequences", "5", *sizes)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (80, 20)


@pytest.mark.slow  # starts two services, one of them off the disk
def test_startup() -> None:
    port = str(service.free_port())
    cold, warm = bench("startup", "--iterations", "1", "--port", port)
    for run in (cold, warm):
        assert 0 < run["ready_s"] < run["first_token_s"]
    assert (cold["cold"], warm["cold"]) == (True, False)
