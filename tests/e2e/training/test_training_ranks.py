"""Processes: killed and resumed, two ranks as one, and each other's checkpoints.

Exact, bit for bit: what a run does after a resume, on one rank or two; what is loaded on another
number of ranks. What two ranks do as against one is within 1e-6: their parameters lie elsewhere in
memory, and on processors with AVX-512 products round by that, whatever MKL_CBWR says.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import training_ranks
from headrace.training.recipe import Updates
from headrace.training.recipes import pretrain

SCRIPT = Path(training_ranks.__file__)
SOURCE = Path(__file__).parents[3] / "src"


def _start(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{SCRIPT.parent}",
        # Else products round by where their operands lie in memory: two ranks' lie elsewhere.
        "MKL_CBWR": "AUTO,STRICT",
    }
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _alone(
    at: Path, plan: Updates, *, seed: int = 0, resume: bool = False, stop: int = -1
) -> dict[str, Any]:
    """What one process does, alone."""
    name = "clipped" if plan is training_ranks.CLIPPED else "unclipped"
    out = at.with_suffix(".json")
    done = _start(SCRIPT, "alone", at, out, name, str(seed), str(int(resume)), str(stop))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_a_killed_run_goes_on_bitwise(tmp_path: Path) -> None:
    """After kill -9: parameters and the next twenty losses."""
    at, plan = tmp_path / "run", training_ranks.CLIPPED
    assert _start(SCRIPT, "killed", at).returncode == -9
    assert [p.name for p in sorted(at.iterdir())] == ["pretrain_000002", "pretrain_000003"]
    (at / ".pretrain_000004.partial").mkdir()  # as if it had been killed while writing
    resumed, alone = _alone(at, plan, seed=9, resume=True), _alone(tmp_path / "alone", plan)
    assert len(resumed["steps"]) == 21
    assert resumed["steps"] == alone["steps"][3:]
    assert resumed["weights"] == alone["weights"]


def _losses(steps: list[list[float]]) -> list[list[float]]:
    return [step[:2] for step in steps]


def _assert_close(ours: list[list[float]], theirs: list[list[float]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_two_ranks_train_as_one_and_take_over_from_one_another(tmp_path: Path) -> None:
    plan = training_ranks.UNCLIPPED
    _alone(tmp_path / "run", plan, stop=3)
    texts, out = tmp_path / "texts", tmp_path / "out.json"
    texts.mkdir()
    for number in range(9):
        (texts / f"{number}.txt").write_text(f"The square of {number} is {number**2}. " * 9)
    done = _start(
        "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-addr", "127.0.0.1", "--master-port", _free_port(),
        SCRIPT, "ranks", tmp_path, out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    both = json.loads(out.read_text())

    assert both["difference"] <= 1e-5
    clipped = _alone(tmp_path / "a", training_ranks.CLIPPED)["steps"]
    for ours, theirs in zip(both["clipped"]["steps"], clipped, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)

    # One rank's checkpoint on two; theirs, from the middle of a run, on two afresh; theirs on one.
    alone = _alone(tmp_path / "alone", plan)
    first, second = _losses(both["first"]["steps"]), _losses(both["second"]["steps"])
    _assert_close(first, _losses(alone["steps"][3:8]))
    assert second[0] == first[-1]
    assert second[0][0] == 8
    _assert_close(second, _losses(alone["steps"][7:]))
    for name, weights in both["second"]["weights"].items():
        assert weights == pytest.approx(alone["weights"][name], rel=1e-4, abs=1e-6), name
    newest = tmp_path / "run" / "pretrain_000024"
    assert sum(path.name.startswith("shard-") for path in newest.iterdir()) == 2
    taken_over = _alone(tmp_path / "run", plan, seed=9, resume=True)
    assert taken_over["steps"] == []
    assert taken_over["weights"] == both["second"]["weights"]

    # A whole recipe: one tokenizer, one log, one model, the one that one rank makes.
    list(pretrain.train(training_ranks.PRETRAIN, data=texts, out=tmp_path / "model_of_one"))
    ones, twos = (
        load_file(tmp_path / name / "model" / "model.safetensors")
        for name in ("model_of_one", "model_of_two")
    )
    assert ones.keys() == twos.keys()
    assert max(float((ones[name] - twos[name]).abs().max()) for name in ones) <= 1e-4
    log = (tmp_path / "model_of_two" / "training_log.jsonl").read_text()
    assert log.count('"kind": "step"') == 4
