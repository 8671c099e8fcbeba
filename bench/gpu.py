"""Checks and measures the GPU path where it runs; needs torch and triton, installs nothing.

    PYTHONPATH=src python bench/gpu.py --out DIR [--minutes 9] [--only walls,checks]

Every ratio's denominator is measured in the same run: memory is read and matrices are multiplied
before any kernel is timed. Stages run in the order of their worth; each adds to DIR/gpu.json when
it is done, and what fails is recorded and passed over. What each stage does is in gpu_kernels.py
and gpu_models.py; the peer, in a process of its own, is gpu_peer.py.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

import gpu_kernels as kernels
import gpu_models as models

ROOT = Path(__file__).resolve().parents[1]

Stage = Callable[["Run"], Any]


class Run:
    """What has been found so far, and how much time is left."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out = out
        self.ends = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {}

    @property
    def left_s(self) -> float:
        return self.ends - time.monotonic()

    @property
    def walls(self) -> kernels.Walls:
        return kernels.Walls(**self.found["walls"])

    def keep(self, name: str, value: Any) -> None:
        self.found[name] = value
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=1, default=str) + "\n")


def machine(run: Run) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": torch.cuda.get_device_capability(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def tests(run: Run) -> dict[str, Any]:
    """The kernels' own tests, this time compiled and on the device."""
    folder = ROOT / "tests/unit/kernels"
    paths = [folder / f"test_triton_{name}.py" for name in ("elementwise", "attention", "linear")]
    paths += [ROOT / "tests/unit/model/test_gpu.py", ROOT / "tests/gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={ROOT}"]
    command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-W", "ignore"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/tests:{ROOT}/src"}
    done = subprocess.run(
        [*command, *map(str, paths)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=max(60.0, min(240.0, run.left_s)),
        check=False,
    )
    (run.out / "tests.log").write_text(done.stdout + done.stderr)
    return {"rc": done.returncode, "said": done.stdout.strip().splitlines()[-12:]}


def peer(run: Run) -> Any:
    """transformers' continuous batching over the same requests."""
    name = run.out / "peer.json"
    command = [sys.executable, str(ROOT / "bench/gpu_peer.py"), "--out", str(name)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(30.0, min(200.0, run.left_s)),
        check=False,
    )
    if done.returncode:
        return {"failed": (done.stderr or done.stdout)[-1500:]}
    return json.loads(name.read_text())


STAGES: dict[str, Stage] = {
    "machine": machine,
    "walls": lambda run: kernels.walls()._asdict(),
    "checks": lambda run: kernels.checks(),
    "decode": lambda run: models.decode(run.walls, run.left_s),
    "prefill": lambda run: models.prefill(run.walls),
    "requests": lambda run: models.requests(run.walls),
    "products": lambda run: kernels.products(run.walls),
    "attention": lambda run: kernels.attention(run.walls),
    "peer": peer,
    "tests": tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default=",".join(STAGES), help="stages, in order")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = Run(given.out, given.minutes)
    for name in given.only.split(","):
        if run.left_s < 20:
            print(f"== {name}: no time left")
            continue
        begun = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            run.keep(name, STAGES[name](run))
        except Exception:  # noqa: BLE001 - one stage's failure must not cost the others
            run.keep(name, {"failed": traceback.format_exc()[-3000:]})
        print(json.dumps(run.found[name], indent=1, default=str)[:6000])
        print(f"   {time.monotonic() - begun:.1f} s", flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
