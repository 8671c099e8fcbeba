"""Processes: killed and resumed, two ranks as one, and each other's checkpoints.

Exact, bit for bit: what one process does after a resume; what two ranks do as against one, where a
step has two micro-batches (either order of a sum of two is the same) and gradients are not clipped
(ranks add their parts of the norm in another order). Otherwise rounding differs, within 1e-6.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import training_fixtures as fx
import training_ranks

SCRIPT = Path(training_ranks.__file__)
SOURCE = Path(__file__).parents[3] / "src"
UNCLIPPED = ("steps=24", "clip_norm=0", "checkpoint_every_s=0")


def _start(ranks: int, directory: Path, *words: str) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    many = (
        "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
        "--master-addr", "127.0.0.1", "--master-port", str(port),
    )  # fmt: skip
    out = directory.with_suffix(".json")
    command = [sys.executable, *(many if ranks > 1 else ()), str(SCRIPT), str(directory), str(out)]
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{SCRIPT.parent}"}
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, timeout=240
    )
    if done.returncode and "kill_at" not in "".join(words):
        raise AssertionError(done.stderr[-3000:])
    return done.returncode


def _run(ranks: int, directory: Path, *words: str) -> dict[str, Any]:
    assert _start(ranks, directory, *words) == 0
    return json.loads(directory.with_suffix(".json").read_text())


def _alone(at: Path, **changes: Any) -> dict[str, Any]:
    """What 24 uninterrupted steps of this process do."""
    plan = fx.updates(steps=24, **changes)
    model, reports = fx.trained(at, plan, batch_tokens=training_ranks.BATCH_TOKENS)
    return {
        "steps": [[r.step, r.loss, r.grad_norm] for r in reports],
        "weights": {f"model.{n}": p.flatten().tolist() for n, p in model.named_parameters()},
    }


def test_a_killed_run_goes_on_bitwise(tmp_path: Path) -> None:
    """After kill -9: parameters and the next twenty losses."""
    words = ("steps=24", "checkpoint_every_s=0")
    at = tmp_path / "run"
    assert _start(1, at, *words, "kill_at=4") == -9
    assert [p.name for p in sorted(at.iterdir())] == ["pretrain_000002", "pretrain_000003"]
    (at / ".pretrain_000004.partial").mkdir()  # as if it had been killed while writing
    resumed, alone = _run(1, at, *words, "resume=1"), _alone(tmp_path / "alone")
    assert len(resumed["steps"]) == 21
    assert resumed["steps"] == alone["steps"][3:]
    assert resumed["weights"] == alone["weights"]


def _losses(steps: list[list[float]]) -> list[list[float]]:
    return [step[:2] for step in steps]


def test_two_ranks_train_as_one_and_take_over_from_one_another(tmp_path: Path) -> None:
    clipped = _run(2, tmp_path / "clipped", "steps=24")
    for ours, theirs in zip(clipped["steps"], _alone(tmp_path / "a")["steps"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert clipped["difference"] <= 1e-5

    # One rank's checkpoint on two ranks, killed; theirs on two again; theirs on one.
    alone = _alone(tmp_path / "alone", clip_norm=0)
    at = tmp_path / "run"
    fx.trained(
        at, fx.updates(steps=24, clip_norm=0), batch_tokens=training_ranks.BATCH_TOKENS, stop=3
    )
    assert _start(2, at, *UNCLIPPED, "resume=1", "kill_at=9") != 0
    newest = at / "pretrain_000008"
    assert sum(path.name.startswith("shard-") for path in newest.iterdir()) == 2
    both = _run(2, at, *UNCLIPPED, "resume=1")
    assert _losses(both["steps"]) == _losses(alone["steps"][8:])
    assert both["weights"] == alone["weights"]
    again, rest = fx.trained(
        at, fx.updates(steps=24, clip_norm=0), model=fx.decoder(seed=9), resume=True
    )
    assert rest == []
    assert {f"model.{n}": p.flatten().tolist() for n, p in again.named_parameters()} == (
        alone["weights"]
    )
