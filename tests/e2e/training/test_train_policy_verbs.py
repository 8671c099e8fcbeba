"""`headrace train grpo`, `ppo` and `distill` in seconds: checkpoints that load, logs, refusals."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.train import train
from headrace.errors import CheckpointError, ConfigError, DataError
from headrace.model import checkpoint
from headrace.training.recipes.distill import Distill, is_on_policy

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"
COMMON = ("updates.steps=4", "updates.warmup_steps=0", "compute.threads=1", "held_out_one_in=4")
ROLLOUTS = (
    *COMMON,
    "updates.lr=0.0001",
    "rollouts.prompts=2",
    "rollouts.max_tokens=6",
    "rollouts.batch_tokens=128",
    "rollouts.kv_cache_bytes=4000000",
    "evaluate_every_steps=2",
)


def _run(*words: str, sets: tuple[str, ...] = ()) -> Result:
    options = [word for item in sets for word in ("--set", item)]
    return CliRunner().invoke(train, [*words, *options])


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [{"prompt": f"What is {n} + 2?", "answer": n + 2} for n in range(12)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    with path.open("w") as stream:
        for n in range(12):
            asked = {"role": "user", "content": f"What is {n} + 2?"}
            said = {"role": "assistant", "content": f"{n} + 2 is {n + 2}."}
            stream.write(json.dumps({"messages": [asked, said]}) + "\n")
    return path


def test_grpo_and_its_resume(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "out"
    words = ("grpo", "--model", str(SPROUT), "--prompts", str(prompts), "--out", str(out))
    words += ("--reward", "numeric", "--reward", "0.1*format:.*[0-9].*", "--json")
    sets = (*ROLLOUTS, "rollouts.group=3", "rollouts.epochs=2", "kl=0.05", "average=grpo")
    done = _run(*words, sets=sets)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert set(report["held_out"]["grpo"]) == {"reward", "reward_numeric", "reward_format"}
    checkpoint.load(out / "model")
    steps = [r for r in _records(out) if r["kind"] == "step"]
    assert len(steps) == 4
    metrics = [r["metrics"] for r in steps]
    for found in metrics:
        assert found["reward"] == pytest.approx(
            found["reward_numeric"] + 0.1 * found["reward_format"]
        )
        assert found["mismatch_max"] < 1e-4
        assert 0 <= found["equal_groups"] <= 1
        assert all(math.isfinite(value) for value in found.values())
    for first, second in ((0, 1), (2, 3)):
        assert metrics[first]["ratio_error"] == 0
        # Where the answers of every group earn the same there is nothing to learn, and it stays.
        nothing = steps[first]["grad_norm"] == 0
        assert (metrics[second]["ratio_error"] == 0) == nothing
    assert any(m["ratio_error"] for m in metrics)
    assert metrics[0]["kl"] == 0

    weights = (out / "model" / "model.safetensors").read_bytes()
    again = _run(*words, "--resume", "auto", sets=sets)
    assert again.exit_code == 0, again.output
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    assert isinstance(_run(*words, sets=sets).exception, CheckpointError)


def test_ppo(tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "out"
    words = ("ppo", "--model", str(SPROUT), "--prompts", str(prompts), "--out", str(out))
    sets = (*ROLLOUTS, "rollouts.group=2", "rollouts.minibatches=2", "rollouts.epochs=1")
    done = _run(*words, "--reward", "format:.*", sets=sets)
    assert done.exit_code == 0, done.output
    checkpoint.load(out / "model")
    metrics = [r["metrics"] for r in _records(out) if r["kind"] == "step"]
    assert {"value_loss", "return", "kl", "reward_format"} <= set(metrics[0])
    assert [m["ratio_error"] == 0 for m in metrics] == [True, False, True, False]


def test_rewards_and_prompts_that_cannot_be_had(tmp_path: Path, prompts: Path) -> None:
    words = ("grpo", "--model", str(SPROUT), "--prompts", str(prompts))
    words += ("--out", str(tmp_path / "out"))
    assert _run(*words).exit_code == 2
    unknown = _run(*words, "--reward", "best", sets=ROLLOUTS)
    assert isinstance(unknown.exception, ConfigError)
    long = _run(*words, "--reward", "exact", sets=(*ROLLOUTS, "rollouts.max_tokens=120"))
    assert isinstance(long.exception, DataError)
    assert "none is left to train on" in str(long.exception)
    uneven = _run(*words, "--reward", "exact", sets=(*ROLLOUTS, "rollouts.minibatches=3"))
    assert isinstance(uneven.exception, DataError)


def test_a_template_that_never_asks_for_an_answer_is_refused(tmp_path: Path, prompts: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(SPROUT, mute)
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    (mute / "chat_template.jinja").write_text(template)
    words = ("grpo", "--model", str(mute), "--prompts", str(prompts), "--reward", "exact")
    refused = _run(*words, "--out", str(tmp_path / "out"), sets=ROLLOUTS)
    assert isinstance(refused.exception, DataError)
    assert "no generation prompt" in str(refused.exception)


@pytest.mark.parametrize("how", ["on_policy=0", "on_policy=0.5", "teacher_top_k=8"])
def test_distil(tmp_path: Path, chats: Path, how: str) -> None:
    """From itself: nothing is to be learned, and nothing is but rounding."""
    out = tmp_path / "out"
    words = ("distill", "--model", str(SPROUT), "--teacher", str(SPROUT), "--data", str(chats))
    sets = (
        *COMMON,
        "rows.per_step=3",
        "rows.batch_tokens=128",
        how,
        "max_tokens=6",
        "beta=0.5",
        "teacher_dtype=float32",
        "evaluate_every_steps=2",
    )
    done = _run(*words, "--out", str(out), "--json", sets=sets)
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["held_out"]["distill"]
    assert 0 <= scores["divergence"] < 1e-4
    assert scores["loss"] > 0
    checkpoint.load(out / "model")
    assert (out / "teacher.safetensors").exists() == (how == "teacher_top_k=8")
    both = _run(*words, "--out", str(out), sets=(*sets, "teacher_top_k=4", "on_policy=0.1"))
    assert isinstance(both.exception, DataError)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path, chats: Path) -> None:
    other = tmp_path / "other"
    made = _run(
        *("pretrain", "--data", str(_book(tmp_path)), "--shape", "1x32", "--out", str(other)),
        sets=(
            *("shape.vocab_tokens=270", "shape.context_tokens=64", "updates.steps=1"),
            *("rows.per_step=1", "rows.row_tokens=16", "rows.batch_tokens=32"),
            *("compute.threads=1", "updates.warmup_steps=0", "held_out_one_in=0"),
        ),
    )
    assert made.exit_code == 0, made.output
    words = ("distill", "--model", str(SPROUT), "--teacher", str(other / "model"))
    refused = _run(*words, "--data", str(chats), "--out", str(tmp_path / "out"), sets=COMMON)
    assert isinstance(refused.exception, CheckpointError)
    assert "headrace train answers" in str(refused.exception)


def _book(directory: Path) -> Path:
    path = directory / "book.jsonl"
    lines = [json.dumps({"text": f"Line {n} of a book about {n * n}. " * 9}) for n in range(9)]
    path.write_text("\n".join(lines))
    return path


def test_the_share_of_on_policy_steps_is_kept() -> None:
    plan = Distill(on_policy=0.3, seed=2)
    taken = [is_on_policy(plan, step) for step in range(2000)]
    assert 0.26 < sum(taken) / len(taken) < 0.34
    assert not any(is_on_policy(Distill(on_policy=0.0), step) for step in range(99))
    assert all(is_on_policy(Distill(on_policy=1.0), step) for step in range(99))
