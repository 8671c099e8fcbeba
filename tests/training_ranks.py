"""What `tests/e2e/training/test_training_ranks.py` starts as processes of its own.

training_ranks.py alone DIRECTORY OUT.json PLAN SEED RESUME STOP
training_ranks.py killed DIRECTORY          trains, and is killed (-9) after step 4's report
python -m torch.distributed.run --nproc-per-node 2 training_ranks.py ranks DIRECTORY OUT.json
"""

import json
import os
import signal
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import training_fixtures as fx
from headrace.data.pack import pack
from headrace.training import loop, parallel
from headrace.training.parallel import Ranks, whole
from headrace.training.recipe import Rows, Updates
from headrace.training.recipes import pretrain
from headrace.training.step import accumulate
from headrace.training.task import Sft

BATCH_TOKENS = 80
CLIPPED = fx.updates(steps=24, checkpoint_every_s=0)
UNCLIPPED = fx.updates(steps=24, checkpoint_every_s=0, clip_norm=0)


_SHAPE = replace(pretrain.parse_shape("1x32"), vocab_tokens=262, context_tokens=32)
PRETRAIN = replace(
    pretrain.default(_SHAPE),
    updates=fx.updates(steps=4, clip_norm=0),
    rows=Rows(per_step=4, row_tokens=32, batch_tokens=128),
    held_out_one_in=3,
    evaluate_every_steps=2,
    sample_tokens=2,
)


def killed(directory: Path) -> None:
    trainee = fx.trainee(fx.decoder(), fx.rows(50), batch_tokens=BATCH_TOKENS)
    for report in loop.run(trainee, "pretrain", CLIPPED, directory=directory):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def alone(directory: Path, out: Path, plan: str, seed: str, resume: str, stop: str) -> None:
    model, reports = fx.trained(
        directory,
        CLIPPED if plan == "clipped" else UNCLIPPED,
        model=fx.decoder(int(seed)),
        batch_tokens=BATCH_TOKENS,
        resume=resume == "1",
        stop=int(stop),
    )
    steps = [[r.step, r.loss, r.grad_norm] for r in reports]
    weights = {f"model.{n}": p.flatten().tolist() for n, p in model.named_parameters()}
    out.write_text(json.dumps({"steps": steps, "weights": weights}))


def ranks(directory: Path, out: Path) -> None:
    """Two ranks; `directory/run` holds a checkpoint that one rank wrote."""
    with parallel.joined() as those:
        made = {
            "difference": difference(those),
            "clipped": train(those, CLIPPED, directory / "clipped", seed=0),
            "first": train(those, UNCLIPPED, directory / "run", seed=8, resume=True, until=5),
            "second": train(those, UNCLIPPED, directory / "run", seed=9, resume=True),
        }
        texts = directory / "texts"
        for event in pretrain.train(PRETRAIN, data=texts, out=directory / "model_of_two"):
            assert those.first, event
        if those.first:
            out.write_text(json.dumps(made))


def train(
    those: Ranks,
    plan: Updates,
    directory: Path,
    *,
    seed: int,
    resume: bool = False,
    until: int | None = None,
) -> dict[str, object]:
    """`until` = abandon it after so many reports."""
    trainee = fx.trainee(fx.decoder(seed), fx.rows(50), batch_tokens=BATCH_TOKENS)
    parallel.shard(trainee.decoder, those)
    reports = loop.run(trainee, "pretrain", plan, directory=directory, resume=resume, ranks=those)
    steps = [[r.step, r.loss, r.grad_norm] for r in islice(reports, until)]
    weights = {name: whole(p).flatten().tolist() for name, p in trainee.named_parameters()}
    return {"steps": steps, "weights": weights}


def difference(those: Ranks) -> float:
    """Largest part by which many micro-batches' gradient over the ranks is off the big batch's."""
    rows = fx.masked(5, count=12)
    big, small = fx.decoder(), fx.decoder()
    accumulate(big, Sft(), pack(rows, max_tokens=9999))
    parallel.shard(small, those)
    batches = pack(rows, max_tokens=20)
    assert len(batches) % 2, "an odd number, so that one rank runs a batch for nothing"
    accumulate(small, Sft(), batches, those)
    worst = 0.0
    for one, other in zip(big.parameters(), small.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        off = (one.grad - whole(other.grad)).abs().max() / one.grad.abs().max()
        worst = max(worst, float(off))
    return worst


if __name__ == "__main__":
    mode, directory, *rest = sys.argv[1:]
    if mode == "killed":
        killed(Path(directory))
    elif mode == "alone":
        alone(Path(directory), Path(rest[0]), *rest[1:])
    else:
        ranks(Path(directory), Path(rest[0]))
