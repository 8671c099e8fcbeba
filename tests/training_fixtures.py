"""A tiny decoder, rows to train it on and how: shared by the tests of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.data.corpus import Mixture, batches
from headrace.data.pack import PackedBatch, TokenRow, whole
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.training import loop
from headrace.training.recipe import Updates
from headrace.training.task import NextToken

VOCAB = 61


def decoder(seed: int = 0, *, tied: bool = True) -> Decoder:
    """Two layers, 32 wide."""
    config = ModelConfig(
        family="qwen3",
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        qk_norm=True,
        initializer_range=0.05,
    )
    made = Decoder(config)
    made.init_weights(seed)
    return made


def rows(count: int, seed: int = 0, *, longest: int = 20) -> list[TokenRow]:
    """Counting sequences, which a model can learn."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, VOCAB, count)
    sizes = random.integers(2, longest + 1, count)
    return [
        whole([int(start + n) % VOCAB for n in range(size)])
        for start, size in zip(starts, sizes, strict=True)
    ]


def masked(seed: int, count: int = 7) -> list[TokenRow]:
    """Rows in which very different numbers of tokens are supervised."""
    random = np.random.default_rng(seed)
    made: list[TokenRow] = []
    for row in rows(count, seed):
        weights = (random.random(len(row.ids)) < random.random()).astype(np.float32)
        weights[-1] = 1.0
        made.append(TokenRow(ids=row.ids, weights=weights))
    return made


def updates(**changes: Any) -> Updates:
    """A few steps, quickly."""
    values: dict[str, Any] = {
        "steps": 12,
        "optimizer": "muon",
        "matrix_lr": 0.02,
        "lr": 0.01,
        "warmup_steps": 2,
        "decay_fraction": 0.5,
        "checkpoint_every_s": 1e9,
    }
    return Updates(**{**values, **changes})


def trainee(
    model: Decoder, data: Sequence[TokenRow], *, rows_per_step: int = 6, batch_tokens: int = 40
) -> loop.Trainee[PackedBatch]:
    mixtures = [Mixture(rows=data, per_step=rows_per_step, seed=3)]
    return loop.Trainee(
        decoder=model,
        batches=lambda step: batches(mixtures, step, max_tokens=batch_tokens),
        task=NextToken(),
        fingerprint="f",
    )


def trained(
    directory: Path,
    plan: Updates,
    *,
    model: Decoder | None = None,
    rows_per_step: int = 6,
    batch_tokens: int = 40,
    resume: bool = False,
    stop: int = -1,
) -> tuple[Decoder, list[loop.StepReport]]:
    """Run it; `stop` = ask it to stop after so many reports."""
    model = model or decoder()
    reports: list[loop.StepReport] = []
    try:
        for report in loop.run(
            trainee(model, rows(50), rows_per_step=rows_per_step, batch_tokens=batch_tokens),
            "pretrain",
            plan,
            directory=directory,
            resume=resume,
            should_stop=lambda: len(reports) == stop,
        ):
            reports.append(report)
    except loop.Interrupted:
        assert len(reports) == stop
    return model, reports


def same(one: Decoder, other: Decoder) -> bool:
    """Bitwise."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
