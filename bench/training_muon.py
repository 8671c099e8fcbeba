"""Steps that Muon needs to reach AdamW's loss: a small model, three seeds, held-out text.

    python bench/training_muon.py [--steps 600] [--part 0.65] [--out bench/results/NAME.json]

AdamW's learning rate is the best of a grid (first seed, full length); Muon's are the recipe's. Both
run their whole schedule: AdamW over `--steps`, Muon over `--part` of them. Muon passes where its
final loss on held-out text is at most AdamW's with the same seed.
"""

import argparse
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from headrace.bench.results import write_result
from headrace.data.corpus import Mixture, batches
from headrace.data.pack import pack, whole
from headrace.training import evaluate, loop
from headrace.training.recipe import Shape, Updates
from headrace.training.recipes import base
from headrace.training.task import NextToken
from training_data import Characters, characters

ROWS, CONTEXT = 12, 64
ADAMW_RATES = (1e-3, 2e-3, 4e-3, 8e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    optimizer: str
    seed: int
    steps: int
    lr: float
    matrix_lr: float | None
    held_out_loss: float


def shape(vocab: int) -> Shape:
    """nanoGPT's: 4 layers, 128 wide, 4 heads, context 64; SwiGLU of about as many weights."""
    return Shape(
        layers=4, width=128, heads=4, kv_heads=4, head_width=32, mlp_width=352,
        vocab_tokens=vocab, context_tokens=CONTEXT,
    )  # fmt: skip


def train(data: Characters, updates: Updates, seed: int) -> Run:
    rows = [
        whole(data.train[at : at + CONTEXT + 1].tolist())
        for at in range(0, len(data.train) - CONTEXT, CONTEXT)
    ]
    held = [
        whole(data.held_out[at : at + CONTEXT + 1].tolist())
        for at in range(0, len(data.held_out) - CONTEXT, CONTEXT)
    ]
    decoder = base.fresh(shape(data.vocab), seed=seed, eos_id=None, pad_id=None)
    mixture = Mixture(rows=rows, per_step=ROWS, seed=seed)
    trainee = loop.Trainee(
        decoder=decoder,
        task=NextToken(),
        batches=lambda step: batches([mixture], step, max_tokens=ROWS * CONTEXT),
        fingerprint="bench",
    )
    with tempfile.TemporaryDirectory() as directory:
        for _ in loop.run(trainee, "bench", updates, directory=Path(directory)):
            pass
    batches_ = pack(held, max_tokens=4096)
    found = evaluate.score(decoder, evaluate.HeldOut(batches=batches_, target_bytes=1))
    run = Run(
        optimizer=updates.optimizer,
        seed=seed,
        steps=updates.steps,
        lr=updates.lr,
        matrix_lr=updates.matrix_lr if updates.optimizer == "muon" else None,
        held_out_loss=found.loss,
    )
    print(run, flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--part", type=float, default=0.65)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    data = characters()

    def adamw(lr: float) -> Updates:
        return Updates(
            steps=arguments.steps, lr=lr, optimizer="adamw", weight_decay=0.1, beta2=0.99,
            schedule="cosine", final_factor=0.1, warmup_steps=arguments.steps // 20,
        )  # fmt: skip

    muon = Updates(
        steps=round(arguments.steps * arguments.part), lr=8e-3, matrix_lr=0.02, optimizer="muon",
        weight_decay=0.1, schedule="wsd", decay_fraction=0.5, warmup_steps=arguments.steps // 40,
    )  # fmt: skip
    grid = [train(data, adamw(lr), arguments.seeds[0]) for lr in ADAMW_RATES]
    best = min(grid, key=lambda run: run.held_out_loss)
    pairs: list[dict[str, Run]] = []
    for seed in arguments.seeds:
        known = best if seed == best.seed else train(data, adamw(best.lr), seed)
        pairs.append({"adamw": known, "muon": train(data, muon, seed)})
    passed = sum(pair["muon"].held_out_loss <= pair["adamw"].held_out_loss for pair in pairs)
    print(f"Muon in {arguments.part:.0%} of the steps: at AdamW's loss, {passed} of {len(pairs)}")
    if arguments.out:
        write_result(
            arguments.out,
            what="training: steps that Muon needs for AdamW's loss",
            arguments={**vars(arguments), "out": str(arguments.out)},
            result={
                "grid": [asdict(run) for run in grid],
                "pairs": [{name: asdict(run) for name, run in pair.items()} for pair in pairs],
                "passed": passed,
            },
        )


if __name__ == "__main__":
    main()
