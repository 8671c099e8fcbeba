"""`headrace train sprout` on a recipe of seconds: it makes a checkpoint that loads and answers."""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.train import train
from headrace.data import sources
from headrace.errors import CheckpointError, ConfigError, DataError
from headrace.model import checkpoint
from headrace.tokens import ChatTemplate, Tokenizer
from headrace.training.recipes import sprout

MICRO = (
    "shape.layers=1",
    "shape.width=32",
    "shape.heads=2",
    "shape.kv_heads=1",
    "shape.head_width=16",
    "shape.mlp_width=32",
    "shape.vocab_tokens=400",
    "shape.context_tokens=256",
    "pretrain.updates.steps=3",
    "pretrain.rows_per_step=2",
    "pretrain.row_tokens=64",
    "pretrain.batch_tokens=400",
    "chat.updates.steps=3",
    "chat.rows_per_step=2",
    "chat.talk_rows_per_step=2",
    "chat.batch_tokens=400",
    "chat.row_tokens=256",
    "chat.asked_rows_per_step=1",
    "chat.gap_rows_per_step=1",
    "pretrain.gap_rows_per_step=1",
    "prefer.updates.steps=2",
    "prefer.asked=6",
    "prefer.pairs_per_step=2",
    "prefer.batch_tokens=600",
    "quoting.source_chars=120",
    "quoting.sources=2",
    "quoting.scored=3",
    "quoting.gaps_max=40",
    "quoting.answer_tokens=4",
    "quoted_max=20",
    "talk_max=20",
    "held_out_one_in=3",
    "held_out_rows=2",
    "evaluate_every_steps=2",
    "compute.threads=1",
)


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of five modules instead of five hundred."""
    real = Path(sysconfig.get_path("stdlib"))
    root = tmp_path / "lib"
    root.mkdir()
    for name in ("bisect", "colorsys", "heapq", "keyword", "posixpath", "reprlib", "shlex"):
        shutil.copy(real / f"{name}.py", root)
    monkeypatch.setattr(sources.sysconfig, "get_path", lambda name: str(root))
    return root


def _train(out: Path, *options: str) -> Result:
    sets = [word for item in MICRO for word in ("--set", item)]
    return CliRunner().invoke(train, ["sprout", "--out", str(out), *options, *sets])


@pytest.mark.usefixtures("small_library")
def test_a_recipe_runs_publishes_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _train(out, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    model = out / "model"
    assert report["published"]["path"] == str(model)
    assert set(report["held_out"]) >= {"pretrain", "chat", "prefer", "prefer-quoting"}

    loaded = checkpoint.load(model)
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    assert loaded.eos_ids == (tokenizer.eos_id,)
    assert sprout.ask(loaded.decoder.float(), tokenizer, template, "Hello!")
    assert (
        sum(p.stat().st_size for p in model.glob("*.safetensors"))
        == (report["published"]["weight_bytes"])
    )
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["recipe"]["shape"]["width"] == 32
    assert {row["source"] for row in manifest["sources"]} == {"stdlib", "docstrings", "topics"}
    card = (model / "MODEL_CARD.md").read_text()
    assert "Copyright © 2001 Python Software Foundation" in card
    assert "| Hello! |" in card
    log = [json.loads(line) for line in (model / "training_log.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in log if r["kind"] == "step"] == [
        *((stage, step) for stage in ("pretrain", "chat") for step in (1, 2, 3)),
        *(("prefer", step) for step in (1, 2)),
    ]
    assert "| prefer | 3 |" in card
    pairs = (out / "pairs.jsonl").read_text().splitlines()
    assert len(pairs) > 2

    # Resumed from its end it makes the same model; from the end of its first stage, too.
    before = (model / "model.safetensors").read_bytes()
    for later in ("chat_000003", "prefer_000002"):
        shutil.rmtree(out / "checkpoints" / later)
    (out / "pairs.jsonl").unlink()
    again = _train(out, "--resume", "auto")
    assert again.exit_code == 0, again.output
    assert str(model) in again.stdout
    assert (model / "model.safetensors").read_bytes() == before

    asked = _train(out)
    assert isinstance(asked.exception, CheckpointError)
    assert "--resume auto goes on" in str(asked.exception)

    # Other settings of the first stage cannot be resumed into; of the second they can.
    refused = _train(out, "--resume", "auto", "--set", "seed=1")
    assert isinstance(refused.exception, CheckpointError)


@pytest.mark.usefixtures("small_library")
def test_texts_and_questions_join_the_library(tmp_path: Path) -> None:
    articles = [
        {
            "title": f"Town {n}",
            "paragraphs": [
                {
                    "context": f"The mayor of town {n} was called Ada. It lies by the sea.",
                    "qas": [
                        {
                            "id": f"{n}",
                            "question": f"Who was mayor of town {n}?",
                            "is_impossible": False,
                            "answers": [{"text": "Ada"}],
                        }
                    ],
                }
            ],
        }
        for n in range(12)
    ]
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps({"data": articles}))
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in range(6):
        (texts / f"play{name}.txt").write_text("To be, or not to be. " * 40)
    done = _train(tmp_path / "out", "--texts", str(texts), "--questions", str(questions))
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "model" / "manifest.json").read_text())
    assert {"play3", "squad"} <= {row["source"] for row in manifest["sources"]}
    assert "CC BY-SA 4.0" in (tmp_path / "out" / "model" / "MODEL_CARD.md").read_text()


@pytest.mark.usefixtures("small_library")
def test_products_have_the_precision_that_is_asked_for(tmp_path: Path) -> None:
    """Left out of the run, the setting would leave the first losses equal to the last bit."""
    firsts: list[float] = []
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        done = _train(out, "--set", f"compute.precision={precision}")
        assert done.exit_code == 0, done.output
        first = (out / "training_log.jsonl").read_text().splitlines()[0]
        firsts.append(json.loads(first)["loss"])
    exact, rounded = firsts
    assert 1e-6 < abs(exact - rounded) < 0.02


def test_bad_calls_are_refused(tmp_path: Path) -> None:
    for device in ("cuda", "auto"):
        elsewhere = _train(tmp_path / "o", "--set", f"compute.device={device}")
        assert isinstance(elsewhere.exception, ConfigError)
        assert "leave compute.device = cpu" in str(elsewhere.exception)
    unknown = _train(tmp_path / "o", "--set", "pretrain.step=1")
    assert isinstance(unknown.exception, ConfigError)
    absent = _train(tmp_path / "o", "--texts", str(tmp_path / "nowhere"))
    assert isinstance(absent.exception, DataError)
