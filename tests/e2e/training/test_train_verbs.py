"""`headrace train pretrain` and `sft` in seconds: checkpoints that load, logs, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.train import train
from headrace.errors import CheckpointError, ConfigError, DataError, MissingExtra
from headrace.model import checkpoint
from headrace.tokens import Tokenizer

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"
MICRO = (
    "shape.vocab_tokens=270",
    "shape.context_tokens=64",
    "updates.steps=6",
    "updates.warmup_steps=2",
    "rows.per_step=2",
    "rows.row_tokens=32",
    "rows.batch_tokens=64",
    "held_out_one_in=3",
    "evaluate_every_steps=3",
    "sample_tokens=4",
    "compute.threads=1",
)


def _run(*words: str, sets: tuple[str, ...] = ()) -> Result:
    options = [word for item in sets for word in ("--set", item)]
    return CliRunner().invoke(train, [*words, *options])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = [
        json.dumps({"text": f"Line {n} of a small book about the number {n * n}. " * 4})
        for n in range(12)
    ]
    path = tmp_path / "book.jsonl"
    path.write_text("\n".join(lines))
    return path


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]


def test_texts_become_a_model(tmp_path: Path, texts: Path) -> None:
    out = tmp_path / "out"
    words = ("pretrain", "--data", str(texts), "--shape", "2x32", "--out", str(out), "--json")
    done = _run(*words, sets=MICRO)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert set(report["held_out"]["pretrain"]) >= {"loss", "perplexity", "bits_per_byte"}
    loaded = checkpoint.load(out / "model")
    assert loaded.config.num_hidden_layers == 2
    assert Tokenizer.load(out / "model").vocab_size == 270
    kinds = [(r["kind"], r["step"]) for r in _records(out) if r["kind"] != "sample"]
    assert kinds == [
        ("step", 1), ("step", 2), ("step", 3), ("score", 3),
        ("step", 4), ("step", 5), ("step", 6), ("score", 6),
    ]  # fmt: skip
    (newest,) = [p for p in (out / "checkpoints").iterdir() if p.name.endswith("6")]
    config = json.loads((newest / "state.json").read_text())["config"]
    assert config["updates"]["steps"] == 6
    assert config["shape"]["vocab_tokens"] == 270

    asked = _run(*words, sets=MICRO)
    assert isinstance(asked.exception, CheckpointError)
    weights = (out / "model" / "model.safetensors").read_bytes()
    again = _run(*words, "--resume", "auto", sets=MICRO)
    assert again.exit_code == 0, again.output
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    other = _run(*words, "--resume", "auto", sets=(*MICRO, "seed=4"))
    assert isinstance(other.exception, CheckpointError)
    anew = _run(*words, "--resume", "never", sets=(*MICRO, "seed=4"))
    assert anew.exit_code == 0, anew.output


def _chats(path: Path, count: int = 30) -> Path:
    with path.open("w") as stream:
        for n in range(count):
            said = [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "n"}]
            stream.write(json.dumps({"messages": said}) + "\n")
        long = [{"role": "user", "content": "a b " * 300}, {"role": "assistant", "content": "n"}]
        stream.write(json.dumps({"messages": long}) + "\n")
    return path


SFT = (
    "rows.per_step=4",
    "rows.row_tokens=128",
    "rows.batch_tokens=256",
    "held_out_one_in=4",
    "updates.lr=0.001",
    "sample_tokens=2",
    "compute.threads=1",
)


def test_a_text_model_learns_to_end_turns_and_is_served_so(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(SPROUT, base)
    (base / "generation_config.json").unlink()
    ids = Tokenizer.load(SPROUT).special
    for name, changes in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("config.json", {"eos_token_id": ids["<|endoftext|>"]}),
    ):
        stored = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**stored, **changes}))
    chats = _chats(tmp_path / "chats.jsonl", count=12)
    words = ("sft", "--model", str(base), "--data", str(chats), "--out", str(tmp_path / "out"))
    done = _run(*words, sets=(*SFT, "updates.steps=1"))
    assert done.exit_code == 0, done.output
    made = checkpoint.load(tmp_path / "out" / "model")
    assert set(made.eos_ids) == {ids["<|im_end|>"], ids["<|endoftext|>"]}


def test_a_model_is_tuned_on_chats_and_the_base_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = (SPROUT / "model.safetensors").read_bytes()
    chats = _chats(tmp_path / "chats.jsonl")
    words = ("sft", "--model", str(SPROUT), "--data", str(chats), "--out", str(out))
    done = _run(*words, "--tensorboard", "--json", sets=SFT)
    assert done.exit_code == 0, done.output
    assert "1 too long and left out" in done.stderr
    assert (SPROUT / "model.safetensors").read_bytes() == before
    steps = [r for r in _records(out) if r["kind"] == "step"]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert len(list((out / "tensorboard" / "sft").glob("events.out.tfevents*"))) == 1
    tuned = checkpoint.load(out / "model")
    assert tuned.eos_ids == checkpoint.load(SPROUT).eos_ids
    assert (out / "model" / "chat_template.jinja").exists()


def test_bad_chats_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    words = ("sft", "--model", str(SPROUT), "--data", str(path), "--out", str(tmp_path / "o"))
    for line, said in (
        ("", "holds no conversation"),
        ("{}", "chats.jsonl:1: `messages` is missing"),
        ("{", "chats.jsonl:1 is not JSON"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no token is supervised"),
        ('{"messages": [{"role": "who", "content": "x"}]}', "role"),
    ):
        path.write_text(line)
        refused = _run(*words, sets=SFT)
        assert isinstance(refused.exception, DataError), line
        assert said in str(refused.exception)
    nothing = _run(*words, sets=(*SFT, "epochs=0"))
    assert nothing.exit_code != 0


def test_bad_texts_and_shapes_are_refused(tmp_path: Path, texts: Path) -> None:
    def refused(*words: str, sets: tuple[str, ...] = MICRO) -> BaseException | None:
        return _run("pretrain", "--out", str(tmp_path / "o"), *words, sets=sets).exception

    data = ("--data", str(texts))
    assert isinstance(refused(*data, "--shape", "big"), ConfigError)
    assert isinstance(refused(*data, "--shape", "2x33"), ConfigError)
    assert isinstance(refused(*data, sets=("shape.vocab_tokens=99999",)), ConfigError)
    assert isinstance(refused("--data", str(tmp_path / "nowhere")), DataError)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert isinstance(refused("--data", str(empty)), (DataError, ConfigError))


def test_absent_tensorboard_is_one_sentence(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    done = _run(
        "pretrain", "--data", str(texts), "--out", str(tmp_path / "o"), "--tensorboard", sets=MICRO
    )
    assert isinstance(done.exception, MissingExtra)
    assert str(done.exception).endswith("pip install 'headrace[training]'")
    assert not (tmp_path / "o" / "checkpoints").exists()
