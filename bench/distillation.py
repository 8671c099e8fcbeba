"""Does a teacher help? The same student, the same texts, the same steps, with one and without.

    python bench/distillation.py --text tinyshakespeare.txt.gz --work /tmp/kd --out bench/results/…

Characters of one text, its last tenth held out. A larger teacher is trained first (kept in WORK, as
is every finished run, so that a second call goes on). Then each seed trains the student's shape
twice over the same batches: on the text alone, and on `text` x cross entropy + (1 - text) x forward
KL from the teacher. What counts is the cross entropy on the held-out tenth, for each seed and on
average; the sign test over three seeds can say no more than p = 1/8, so the numbers stand for
themselves.
"""

import argparse
import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from headrace.bench.results import write_result
from headrace.data import order
from headrace.data.pack import PackedBatch, TokenRow, pack, whole
from headrace.model.decoder import Decoder
from headrace.training import evaluate, loop
from headrace.training.distill.tasks import Distill
from headrace.training.objectives.divergence import Divergence
from headrace.training.recipe import Shape, Updates
from headrace.training.recipes.base import fresh
from headrace.training.task import NextToken, Task

ROW_TOKENS = 128
HELD_OUT_ROWS = 200


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    rows: Sequence[TokenRow]
    held_out: evaluate.HeldOut
    characters: int
    vocab: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    seed: int
    teacher: bool
    held_out_loss: float
    """Nats a character."""
    train_seconds: float


def read(path: Path) -> Texts:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    alphabet = {character: place for place, character in enumerate(sorted(set(text)))}
    ids = [alphabet[character] for character in text]
    edge = len(ids) * 9 // 10

    def rows(part: Sequence[int]) -> list[TokenRow]:
        starts = range(0, len(part) - ROW_TOKENS - 1, ROW_TOKENS)
        return [whole(part[start : start + ROW_TOKENS + 1]) for start in starts]

    held = rows(ids[edge:])[:HELD_OUT_ROWS]
    return Texts(
        rows=rows(ids[:edge]),
        held_out=evaluate.HeldOut(
            batches=pack(held, max_tokens=16 * ROW_TOKENS),
            target_bytes=len(held) * ROW_TOKENS,
        ),
        characters=len(ids),
        vocab=len(alphabet),
    )


def shape(texts: Texts, layers: int, width: int) -> Shape:
    heads = max(1, width // 32)
    return Shape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=32,
        mlp_width=width * 3,
        vocab_tokens=texts.vocab,
        context_tokens=ROW_TOKENS,
    )


def train(
    texts: Texts, decoder: Decoder, task: Task[PackedBatch], *, steps: int, lr: float, seed: int
) -> float:
    """Seconds that it took."""

    def batches(step: int) -> list[PackedBatch]:
        chosen = order.documents(seed=seed, step=step, count=len(texts.rows), per_step=16)
        return pack([texts.rows[n] for n in chosen], max_tokens=16 * ROW_TOKENS)

    updates = Updates(
        steps=steps,
        lr=lr,
        weight_decay=0.1,
        warmup_steps=steps // 20,
        schedule="cosine",
        final_factor=0.1,
        checkpoint_every_s=math.inf,
    )
    trainee = loop.Trainee(decoder=decoder, task=task, batches=batches, fingerprint="")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        for report in loop.run(trainee, "bench", updates, directory=Path(directory)):
            if report.step % 100 == 0:
                print(f"  step {report.step}: {report.loss:.3f}", file=sys.stderr)
    return time.monotonic() - began


def teacher(texts: Texts, options: argparse.Namespace) -> Decoder:
    decoder = fresh(
        shape(texts, options.teacher_layers, options.teacher_width),
        seed=99,
        eos_id=None,
        pad_id=None,
    )
    kept = Path(options.work) / "teacher.safetensors"
    if kept.is_file():
        decoder.load_state_dict(load_file(kept))
    else:
        steps = options.teacher_steps
        train(texts, decoder, NextToken(), steps=steps, lr=2e-3, seed=99)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.clone() for name, tensor in decoder.state_dict().items()}, kept)
    for param in decoder.parameters():
        param.requires_grad_(False)
    return decoder


def _key(options: argparse.Namespace) -> str:
    """Of what a student's run depends on, the teacher's training included."""
    ignored = ("out", "work", "seeds")
    values = {k: str(v) for k, v in sorted(vars(options).items()) if k not in ignored}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--teacher-layers", type=int, default=4)
    parser.add_argument("--teacher-width", type=int, default=128)
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--text-share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = read(options.text)
    strong = teacher(texts, options)
    best = evaluate.score(strong, texts.held_out)
    print(f"teacher: held-out loss {best.loss:.4f}")
    runs: list[Run] = []
    for seed, helped in itertools.product(range(options.seeds), (False, True)):
        kept = Path(options.work) / f"{_key(options)}-{seed}-{helped}.json"
        if kept.is_file():
            runs.append(Run(**json.loads(kept.read_text())))
            continue
        task = (
            Distill(strong, Divergence(beta=0.0), text=options.text_share)
            if helped
            else NextToken()
        )
        student = fresh(
            shape(texts, options.layers, options.width), seed=seed, eos_id=None, pad_id=None
        )
        seconds = train(texts, student, task, steps=options.steps, lr=options.lr, seed=seed)
        loss = evaluate.score(student, texts.held_out).loss
        runs.append(Run(seed=seed, teacher=helped, held_out_loss=loss, train_seconds=seconds))
        kept.write_text(json.dumps(dataclasses.asdict(runs[-1])))
        print(f"seed {seed}, {'with' if helped else 'without'} teacher: {loss:.4f}")
    gains = [
        alone.held_out_loss - taught.held_out_loss
        for alone, taught in zip(runs[::2], runs[1::2], strict=True)
    ]
    print(
        f"gain of each seed {[round(gain, 4) for gain in gains]}, mean {statistics.mean(gains):.4f}"
    )
    if options.out:
        write_result(
            options.out,
            what="a student with and without a teacher, held-out nats a character",
            arguments={
                name: value.name if isinstance(value, Path) else value
                for name, value in vars(options).items()
                if name not in ("work", "out")
            },
            result={
                "teacher_held_out_loss": best.loss,
                "runs": runs,
                "gain_by_seed": gains,
                "gain_mean": statistics.mean(gains),
                "characters": texts.characters,
                "vocabulary": texts.vocab,
            },
        )


if __name__ == "__main__":
    main()
