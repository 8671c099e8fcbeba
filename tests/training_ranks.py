"""Trains the tiny decoder, alone or under torchrun, and writes what each step did.

    [python -m torch.distributed.run --nproc-per-node 2] training_ranks.py DIRECTORY OUT.json \\
        [key=value ...]

Keys: those of `Updates`, `resume`, and `kill_at`: this process is killed, -9, after that step's
report.
"""

import json
import os
import signal
import sys
from pathlib import Path

import training_fixtures as fx
from headrace.data.pack import pack
from headrace.training import loop, parallel
from headrace.training.parallel import Ranks, whole
from headrace.training.recipe import Updates, with_sets
from headrace.training.step import accumulate
from headrace.training.task import Sft

BATCH_TOKENS = 80


def main(directory: Path, out: Path, words: list[str]) -> None:
    options = dict(word.split("=", 1) for word in words)
    resume, kill_at = (options.pop(key, "") for key in ("resume", "kill_at"))
    plan = with_sets(fx.updates(), [f"{key}={value}" for key, value in options.items()])
    with parallel.joined() as ranks:
        made = {"difference": difference(ranks), **train(ranks, plan, directory, resume, kill_at)}
        if ranks.first:
            out.write_text(json.dumps(made))


def train(
    ranks: Ranks, plan: Updates, directory: Path, resume: str, kill_at: str
) -> dict[str, object]:
    model = fx.decoder(seed=9 if resume else 0)
    trainee = fx.trainee(model, fx.rows(50), batch_tokens=BATCH_TOKENS)
    parallel.shard(model, ranks)
    steps: list[list[float]] = []
    for report in loop.run(
        trainee, "pretrain", plan, directory=directory, resume=bool(resume), ranks=ranks
    ):
        steps.append([report.step, report.loss, report.grad_norm])
        if str(report.step) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    weights = {name: whole(p).flatten().tolist() for name, p in trainee.named_parameters()}
    return {"steps": steps, "weights": weights}


def difference(ranks: Ranks) -> float:
    """Largest part by which many micro-batches' gradient over the ranks is off the big batch's."""
    rows = fx.masked(5, count=11)
    big, small = fx.decoder(), fx.decoder()
    accumulate(big, Sft(), pack(rows, max_tokens=9999))
    parallel.shard(small, ranks)
    batches = pack(rows, max_tokens=20)
    assert len(batches) % 2, "an odd number, so that one rank runs a batch for nothing"
    accumulate(small, Sft(), batches, ranks)
    worst = 0.0
    for one, other in zip(big.parameters(), small.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        off = (one.grad - whole(other.grad)).abs().max() / one.grad.abs().max()
        worst = max(worst, float(off))
    return worst


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
