"""Pre-training from prepared shards: the data a directory holds, in the order of (seed, step)."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.data import execute
from headrace.data.plan import Plan, Source
from headrace.data.prepare import prepare
from headrace.errors import ConfigError, DataError
from headrace.tokens import train_bpe
from headrace.training.recipe import Shape
from headrace.training.recipes import pretrain
from headrace.training.watch import Prepared

SHAPE = Shape(
    layers=1,
    width=16,
    heads=2,
    kv_heads=1,
    head_width=8,
    mlp_width=32,
    vocab_tokens=300,
    context_tokens=64,
)


@pytest.fixture
def corpus(tmp_path: Path) -> Plan:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["mill", "water", "wheel", "stone"], k=30)) for _ in range(40)]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    train_bpe(texts, vocab_size=270, special_tokens=["<end>"], eos="<end>").save(tmp_path / "tok")
    source = Source(name="texts", path=path, licence="CC0-1.0")
    return Plan(sources=(source,), tokenizer=tmp_path / "tok", held_out_one_in=5, near=None)


def test_it_trains_on_prepared_data(corpus: Plan, tmp_path: Path) -> None:
    list(prepare(corpus, tmp_path / "data", execute.local(1)))
    plan = pretrain.default(SHAPE)
    plan = replace(plan, updates=replace(plan.updates, steps=2, warmup_steps=0), sample_tokens=2)
    events = list(pretrain.train(plan, data=tmp_path / "data", out=tmp_path / "out"))
    (facts,) = [event.facts for event in events if isinstance(event, Prepared)]
    assert facts["documents"] == 40
    assert facts["tokens"] > 0
    assert (tmp_path / "out" / "model" / "config.json").exists()
    with pytest.raises(ConfigError, match="its own tokenizer"):
        list(
            pretrain.train(
                plan, data=tmp_path / "data", out=tmp_path / "o2", tokenizer=tmp_path / "tok"
            )
        )


def test_without_a_split_to_judge_by_it_says_so(corpus: Plan, tmp_path: Path) -> None:
    list(prepare(replace(corpus, held_out_one_in=0), tmp_path / "data", execute.local(1)))
    with pytest.raises(DataError, match="--held-out 100"):
        list(pretrain.train(pretrain.default(SHAPE), data=tmp_path / "data", out=tmp_path / "out"))
