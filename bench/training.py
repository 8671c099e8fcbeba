"""Training speed beside nanoGPT's loop and the Hugging Face Trainer, alternating in one run.

    python bench/training.py [--rounds 7] [--steps 40] [--threads 2] [--out bench/results/NAME.json]

All train on tinyshakespeare as characters, 12 rows of 64 tokens a step, AdamW, on this CPU in
float32. nanoGPT has its own GPT-2 shape of the same depth, width and heads (peers/nanogpt_loop.py);
the Trainer has transformers' Qwen3 with exactly headrace's config. headrace's SwiGLU of width 352
has 3 % more weights a layer than nanoGPT's MLP. Reported: the median over rounds of tokens a
second, and of the ratios within a round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from headrace.bench.results import write_result
from headrace.data.corpus import Mixture, batches
from headrace.data.pack import whole
from headrace.training import loop
from headrace.training.recipe import Updates
from headrace.training.recipes import base
from headrace.training.task import NextToken
from peers import hf_trainer, nanogpt_loop
from training_data import Characters, characters
from training_muon import CONTEXT, ROWS, shape

ALL_STEPS = 100_000
WARM_STEPS = 3


def ours(data: Characters, directory: Path) -> Iterator[object]:
    rows = [
        whole(data.train[at : at + CONTEXT + 1].tolist())
        for at in range(0, len(data.train) - CONTEXT, CONTEXT)
    ]
    decoder = base.fresh(shape(data.vocab), seed=0, eos_id=None, pad_id=None)
    mixture = Mixture(rows=rows, per_step=ROWS, seed=0)
    trainee = loop.Trainee(
        decoder=decoder,
        task=NextToken(),
        batches=lambda step: batches([mixture], step, max_tokens=ROWS * CONTEXT),
        fingerprint="bench",
    )
    updates = Updates(
        steps=ALL_STEPS, lr=1e-3, weight_decay=0.1, beta2=0.99, schedule="cosine",
        warmup_steps=100, checkpoint_every_s=1e9,
    )  # fmt: skip
    return loop.run(trainee, "bench", updates, directory=directory)


def of_iterator(steps_made: Iterator[object]) -> Callable[[int], float]:
    def seconds(steps: int) -> float:
        for _ in islice(steps_made, WARM_STEPS):
            pass
        began = time.perf_counter()
        for _ in islice(steps_made, steps):
            pass
        return time.perf_counter() - began

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = characters()
    decoder_config = base.fresh(shape(data.vocab), seed=0, eos_id=None, pad_id=None).config
    blocks = data.train[: len(data.train) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    trainer = hf_trainer.Contestant(
        {
            "vocab_size": decoder_config.vocab_size,
            "hidden_size": decoder_config.hidden_size,
            "intermediate_size": decoder_config.intermediate_size,
            "num_hidden_layers": decoder_config.num_hidden_layers,
            "num_attention_heads": decoder_config.num_attention_heads,
            "num_key_value_heads": decoder_config.num_key_value_heads,
            "head_dim": decoder_config.head_dim,
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": True,
            "use_cache": False,
        },
        blocks.astype(np.int64),
        ROWS,
    )
    with tempfile.TemporaryDirectory() as directory:
        contestants: dict[str, Callable[[int], float]] = {
            "headrace": of_iterator(ours(data, Path(directory))),
            "nanogpt": of_iterator(nanogpt_loop.train(data.train, data.vocab, ALL_STEPS)),
            "hf_trainer": lambda steps: trainer.seconds(steps, skipped=WARM_STEPS),
        }
        for seconds in contestants.values():
            seconds(2)
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(arguments.rounds):
            names = list(contestants)
            for name in names if turn % 2 else reversed(names):
                took = contestants[name](arguments.steps)
                speeds[name].append(ROWS * CONTEXT * arguments.steps / took)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(speeds["headrace"], found, strict=True))
        for name, found in speeds.items()
        if name != "headrace"
    }
    for name, value in medians.items():
        print(f"{name:11} {value:8,.0f} tok/s   headrace / it: {ratios.get(name, 1.0):.2f}")
    if arguments.out:
        write_result(
            arguments.out,
            what="training: tokens a second beside nanoGPT's loop and the Hugging Face Trainer",
            arguments={**vars(arguments), "out": str(arguments.out)},
            result={"tokens_per_s": speeds, "medians": medians, "ratios": ratios},
        )


if __name__ == "__main__":
    main()
