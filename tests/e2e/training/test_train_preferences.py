"""`headrace train dpo`, `orpo`, `kto`, `reward` in seconds: preferences are learnt and served."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.train import train
from headrace.data.chat import turns
from headrace.errors import CheckpointError, ConfigError, DataError, HeadraceError, InvalidParameter
from headrace.model import checkpoint, reward
from headrace.model.decoder import Decoder
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.training.policy import rewards

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"
SETS = (
    "updates.steps=12",
    "updates.lr=1e-2",
    "updates.warmup_steps=2",
    "rows.per_step=8",
    "rows.row_tokens=96",
    "rows.batch_tokens=512",
    "held_out_one_in=5",
    "evaluate_every_steps=6",
    "sample_tokens=4",
    "samples=1",
    "compute.threads=1",
)
WORDS = ("red", "green", "blue", "white", "black", "brown", "grey", "pink", "gold", "plum")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs: the better answer is polite. Two more cannot be trained on."""
    records: list[dict[str, Any]] = [
        {
            "prompt": f"Is {word} {kind}?",
            "chosen": f"Thank you for asking: {word} is {kind}.",
            "rejected": f"Go away, who cares if {word} is {kind}!",
            "margin": 0.5,
        }
        for word in WORDS
        for kind in ("warm", "cold", "loud", "dull")
    ]
    records.append({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."})
    records.append({"prompt": "Long? " * 60, "chosen": "Yes.", "rejected": "No."})
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of a hundred thousand parameters, with sprout's tokenizer and template."""
    config = replace(
        checkpoint.load(SPROUT).config,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        dtype="bfloat16",
    )
    decoder = Decoder(config)
    decoder.init_weights(0)
    path = tmp_path_factory.mktemp("base") / "model"
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    beside = {name: (SPROUT / name).read_bytes() for name in files}
    checkpoint.save(decoder, config, path, dtype="bfloat16", beside=beside)
    _BASE.append(path)
    return path


_BASE: list[Path] = []


def _run(method: str, data: Path, out: Path, *words: str, sets: tuple[str, ...] = SETS) -> Result:
    options = [word for item in sets for word in ("--set", item)]
    where = ("--model", str(_BASE[-1]), "--data", str(data), "--out", str(out))
    return CliRunner().invoke(train, [method, *where, "--json", *words, *options])


def _steps(out: Path) -> list[dict[str, Any]]:
    lines = (out / "training_log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == "step"]


@pytest.mark.parametrize(
    ("method", "sets"),
    [
        ("dpo", ()),
        ("dpo", ("loss.kind=ipo", "loss.beta=0.5", "loss.sft_weight=0.1")),
        ("orpo", ()),
        ("kto", ("updates.lr=3e-3",)),
        ("reward", ("loss.center_weight=0.01",)),
        ("reward", ("compute.precision=bfloat16",)),
        ("kto", ("updates.lr=3e-3", "compute.precision=bfloat16")),
    ],
)
def test_a_preference_is_learnt(
    method: str, sets: tuple[str, ...], pairs: Path, tmp_path: Path
) -> None:
    done = _run(method, pairs, tmp_path, sets=(*SETS, *sets))
    assert done.exit_code == 0, done.output
    assert f"{2 if method == 'kto' else 1} left out: too long" in done.stderr
    assert "1 left out: equal sides" in done.stderr
    report = json.loads(done.stdout)
    assert report["held_out"][method]["accuracy"] == 1.0
    steps = _steps(tmp_path)
    first, last = (steps[at]["metrics"] for at in (0, -1))
    assert last["accuracy"] >= 0.9
    if method == "dpo":  # where nothing is preferred before the first step
        assert first["accuracy"] <= 0.5
    if method == "kto":
        assert last["good_reward"] > 0.05 > -0.05 > last["bad_reward"]
        assert first["kl"] == 0.0
    else:
        assert last["margin"] > first["margin"] + 0.05
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_the_tuned_model_serves(base: Path, pairs: Path, tmp_path: Path) -> None:
    assert _run("dpo", pairs, tmp_path).exit_code == 0
    tuned, untuned = (checkpoint.load(path) for path in (tmp_path / "model", base))
    assert replace(tuned.config, dtype="float32") == replace(untuned.config, dtype="float32")
    assert tuned.dtype == untuned.dtype
    assert tuned.fingerprint != untuned.fingerprint
    words = ["--model", str(tmp_path / "model"), "--temperature", "0", "--max-tokens", "4"]
    said = subprocess.run(
        [sys.executable, "-m", "headrace", "generate", "Is red warm?", *words, "--json"],
        capture_output=True,
        timeout=120,
        check=False,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["usage"]["completion_tokens"] >= 1


def test_a_reward_model_prefers_what_was_preferred(pairs: Path, tmp_path: Path) -> None:
    assert _run("reward", pairs, tmp_path).exit_code == 0
    model = reward.load(tmp_path / "model", dtype="float32")
    tokenizer, template = Tokenizer.load(tmp_path / "model"), ChatTemplate.load(tmp_path / "model")
    good, bad = (
        render(tokenizer, template, turns("Is teal warm?", said), add_generation_prompt=False).ids
        for said in ("Thank you for asking: teal is warm.", "Go away, who cares if teal is warm!")
    )
    assert float(model.scores([good, bad]).diff()) < -0.5
    judge = rewards.reward(f"2*model:{tmp_path / 'model'}")
    record = {"messages": [{"role": "user", "content": "Is teal warm?"}]}
    given = judge.function("Thank you for asking: teal is warm.", record)
    assert judge.factor == 2
    assert given == pytest.approx(float(model.scores([good])), rel=1e-5)
    with pytest.raises(InvalidParameter, match="messages"):
        judge.function("No.", {"prompt": "a prompt with parts that are no text"})
    with pytest.raises(HeadraceError, match="ForSequenceClassification"):
        checkpoint.load(tmp_path / "model")
    with pytest.raises(CheckpointError, match="is no reward model"):
        reward.load(SPROUT)


def test_grpo_learns_from_a_reward_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    assert _run("reward", pairs, tmp_path / "scorer").exit_code == 0
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Is {w} warm?"}) + "\n" for w in WORDS))
    sets = ("updates.steps=1", "rollouts.prompts=2", "rollouts.group=2", "rollouts.max_tokens=4",
            "rollouts.batch_tokens=128", "rollouts.kv_cache_bytes=4000000")  # fmt: skip
    words = ["grpo", "--model", str(base), "--prompts", str(prompts), "--out", str(tmp_path / "g")]
    words += ["--reward", f"model:{tmp_path / 'scorer' / 'model'}", "--json"]
    done = CliRunner().invoke(train, [*words, *(w for item in sets for w in ("--set", item))])
    assert done.exit_code == 0, done.output
    (step,) = _steps(tmp_path / "g")
    assert step["metrics"]["reward_model"] == pytest.approx(step["metrics"]["reward"])
    assert step["metrics"]["reward_std"] > 0


def test_an_interrupted_run_ends_as_if_it_had_not_been(pairs: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    always = (*SETS, "updates.checkpoint_every_s=0")
    assert _run("kto", pairs, whole, sets=always).exit_code == 0
    assert _run("kto", pairs, parts, sets=always).exit_code == 0
    newest = sorted((parts / "checkpoints").iterdir())
    assert len(newest) == 2
    (newest[-1] / "state.json").unlink()  # as if it had been killed before the last step
    (parts / "reference.safetensors").unlink()
    done = _run("kto", pairs, parts, "--resume", "auto", sets=always)
    assert done.exit_code == 0, done.output
    same = [(path / "model" / "model.safetensors").read_bytes() for path in (whole, parts)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("method", "sets", "said"),
    [
        ("dpo", ("loss.kind=kto",), "loss.kind = 'kto' is none of sigmoid"),
        ("dpo", ("loss.beta=0",), "beta 0.0 must be above 0"),
        ("dpo", ("loss.label_smoothing=0.1", "loss.kind=hinge"), "means nothing to kind hinge"),
        ("orpo", ("loss.kind=ipo",), "unknown recipe key 'loss.kind'"),
        ("kto", ("loss.desirable_weight=0", "loss.undesirable_weight=0"), "nothing counts"),
    ],
)
def test_settings_that_mean_nothing(
    method: str, sets: tuple[str, ...], said: str, pairs: Path, tmp_path: Path
) -> None:
    refused = _run(method, pairs, tmp_path, sets=(*SETS, *sets))
    assert isinstance(refused.exception, ConfigError)
    assert said in str(refused.exception)


def test_sets_that_need_each_other_come_in_any_order(pairs: Path, tmp_path: Path) -> None:
    both = ("loss.kind=exo_pair", "loss.label_smoothing=0.001", "updates.steps=1")
    assert _run("dpo", pairs, tmp_path, sets=(*SETS, *both)).exit_code == 0


@pytest.mark.parametrize(
    ("method", "records", "said"),
    [
        ("dpo", [], "has no record"),
        ("kto", [], "has no record"),
        ("dpo", [{"prompt": "a", "chosen": "b", "rejected": "b"}], "1 equal sides"),
        ("dpo", [{"prompt": "a" * 999, "chosen": "b", "rejected": "c"}], "1 too long"),
        ("kto", [{"prompt": "a", "completion": "b", "label": True}], "at least 2 examples a step"),
    ],
)
def test_data_that_cannot_be_trained_on(
    method: str, records: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    refused = _run(method, path, tmp_path / "out")
    assert isinstance(refused.exception, DataError)
    assert said in str(refused.exception)
