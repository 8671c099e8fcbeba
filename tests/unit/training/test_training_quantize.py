"""The recipe: what it writes, what it says, and when it writes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import checkpoints
from headrace.app import bundled_model
from headrace.data.sources import Document
from headrace.errors import CheckpointError, DataError, UserError
from headrace.model import checkpoint
from headrace.model.calibrate import MatrixDone
from headrace.model.files import peek
from headrace.model.fingerprint import read_sums
from headrace.model.quantization import Keep
from headrace.tokens import Tokenizer
from headrace.training.quantize import Begun, Event, Measured, Plan, Written, batches, run

SPROUT = bundled_model()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with sprout's tokenizer and template, and a card and a licence."""
    directory = tmp_path_factory.mktemp("source") / "tiny"
    checkpoints.make(
        directory, "qwen3", vocab_size=4096, tie_word_embeddings=True, dtype=torch.bfloat16
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(SPROUT / name, directory)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n\nAbout it.\n")
    (directory / "LICENSE").write_text("MIT")
    (directory / "training_log.jsonl").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty short documents."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        json.dumps({"path": f"{n}", "text": f"Text number {n} says {n * n}. " * 8})
        for n in range(30)
    ]
    path.write_text("\n".join(lines))
    return path


def plan(format: str, **changes: object) -> Plan:
    values = {"format": format, "max_loss": 1e3, "calibration_tokens": 800, "held_out_tokens": 300}
    return Plan(**{**values, "row_tokens": 64, **changes})  # type: ignore[arg-type]


def made(chosen: Plan, source: Path, out: Path, texts: Path) -> dict[type, Event]:
    """The last event of each kind."""
    return {type(event): event for event in run(chosen, source=source, out=out, texts=texts)}


def test_int4_is_calibrated_and_keeps_its_head_in_int8(
    source: Path, texts: Path, tmp_path: Path
) -> None:
    events = made(plan("int4"), source, tmp_path / "m", texts)
    begun, measured, written = events[Begun], events[Measured], events[Written]
    assert isinstance(begun, Begun)
    assert isinstance(measured, Measured)
    assert isinstance(written, Written)
    assert MatrixDone in events
    assert begun.method == "gptq"
    assert begun.quantization.kept == {"lm_head": "int8"}
    assert begun.matrices == 15
    assert 600 < begun.calibration_tokens <= 800
    assert measured.quality.tokens == begun.held_out_tokens <= 300
    assert measured.quality.kl_mean > 0
    assert written.weight_bytes < 0.7 * written.weight_bytes_before
    loaded = checkpoint.load(tmp_path / "m")
    assert loaded.config.quantization == begun.quantization
    assert loaded.dtype == torch.bfloat16


def test_what_goes_along(source: Path, texts: Path, tmp_path: Path) -> None:
    made(plan("int8"), source, tmp_path / "m", texts)
    found = {path.name for path in (tmp_path / "m").iterdir()}
    assert found == {
        "config.json", "model.safetensors", "SHA256SUMS", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "README.md",
        "LICENSE",
    }  # fmt: skip
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "m" / name).read_bytes() == (source / name).read_bytes()
    sums = read_sums(tmp_path / "m")
    assert sums is not None
    assert list(sums) == ["model.safetensors"]
    assert Tokenizer.load(tmp_path / "m").vocab_size == 4096
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # nothing half-written beside it


def test_the_card_says_what_was_done(source: Path, texts: Path, tmp_path: Path) -> None:
    chosen = plan("int4", keep=[Keep.parse("layers.0.mlp.down_proj")], group=64)
    events = made(chosen, source, tmp_path / "m", texts)
    measured = events[Measured]
    assert isinstance(measured, Measured)
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# tiny\n\nAbout it.\n\n## Quantization\n")
    for part in (
        "int4, error-compensated (GPTQ",
        "one scale for 64 inputs",
        "`model.layers.0.mlp.down_proj` in bf16",
        "`lm_head` in int8",
        f"| {measured.quality.perplexity_before:.4f} | {measured.quality.perplexity_after:.4f} |",
        f"{measured.quality.kl_mean:.2e}",
        f"{measured.quality.kl_p99:.2e}",
        f"Measured on {measured.quality.tokens:,} held-out tokens",
        "a loss increase of 1000",
        "Calibrated on ",
        "| texts | unknown: see the directory the text came from | 30 |",
    ):
        assert part in card, part
    assert len(card.split("`")[-2]) == 64  # the texts' SHA-256


def test_a_card_that_has_the_section_gets_a_new_one(
    source: Path, texts: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / "README.md").write_text("# tiny\n\n## Quantization\n\nold\n\n## Limits\n\nmany\n")
    made(plan("int8"), copy, tmp_path / "m", texts)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "old" not in card
    assert "## Limits\n\nmany\n\n## Quantization\n\nMade by" in card
    assert "rounded to nearest" in card
    assert "Calibrated" not in card


def test_no_card_before(source: Path, texts: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / "README.md").unlink()
    made(plan("fp8"), copy, tmp_path / "m", texts)
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert card.startswith("# copy\n\n## Quantization\n")
    assert "one scale a row (a power of two)" in card


@pytest.mark.parametrize(
    ("format", "changes", "way_out"),
    [
        ("int4", {"group": 128}, "lower --group to 32; keep sensitive layers with --keep;"),
        ("int8", {"method": "rtn"}, "calibrate with --method gptq; keep"),
        ("fp8", {}, "nothing was written. keep sensitive layers with --keep; or accept it with"),
    ],
)
def test_refuses_over_the_limit(
    source: Path, texts: Path, tmp_path: Path, format: str, changes: dict[str, object], way_out: str
) -> None:
    seen: list[Event] = []
    chosen = plan(format, max_loss=-1.0, **changes)
    with pytest.raises(UserError) as caught:
        seen.extend(run(chosen, source=source, out=tmp_path / "m", texts=texts))
    assert isinstance(seen[-1], Measured)  # the numbers were shown
    message = caught.value.message
    assert "over the limit of -1; nothing was written" in message
    assert f"perplexity {seen[-1].quality.perplexity_before:.4g} to " in message
    assert way_out in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (plan("int3"), "--to 'int3' is not one of int8, int4, fp8"),
        (plan("int8", method="awq"), "--method 'awq' is not one of auto, rtn, gptq"),
        (plan("fp8", method="gptq"), "--method gptq is for int8 and int4"),
        (plan("int8", group=48), "group 48 is not one of 32, 64, 128"),
        (plan("int8", keep=[Keep.parse("nothing")]), "matches no matrix"),
    ],
)
def test_plans_that_make_no_sense(
    source: Path, texts: Path, tmp_path: Path, chosen: Plan, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        list(run(chosen, source=source, out=tmp_path / "m", texts=texts))
    assert says in caught.value.message
    assert not (tmp_path / "m").exists()


def test_neither_twice_nor_over_another(source: Path, texts: Path, tmp_path: Path) -> None:
    made(plan("int8"), source, tmp_path / "m", texts)
    with pytest.raises(UserError, match="exists already; choose another directory with --out"):
        made(plan("int8"), source, tmp_path / "m", texts)
    with pytest.raises(UserError, match=r"is quantized already \(int8\)"):
        made(plan("int4"), tmp_path / "m", tmp_path / "n", texts)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        made(plan("int4"), tmp_path / "none", tmp_path / "n", texts)


def test_too_few_texts(source: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A single document.")
    with pytest.raises(DataError, match="1 documents are too few"):
        made(plan("int8"), source, tmp_path / "m", tmp_path / "one.txt")


def test_rows_come_from_all_over_and_begin_with_bos() -> None:
    tokenizer = Tokenizer.load(SPROUT)
    documents = [
        Document(id=f"{n}", source="s", licence="", text=f"word{n} " * 200) for n in range(5)
    ]
    found = batches(documents, tokenizer, row_tokens=50, tokens=400)
    again = batches(documents[::-1], tokenizer, row_tokens=50, tokens=400)
    assert [batch.ids_T.tolist() for batch in found] == [batch.ids_T.tolist() for batch in again]
    assert 300 < sum(batch.tokens for batch in found) <= 400
    text = tokenizer.decode([int(i) for batch in found for i in batch.ids_T])
    assert len({f"word{n}" for n in range(5) if f"word{n}" in text}) >= 3
    tokenizer.adds_bos, tokenizer.bos_id = True, 7
    for batch in batches(documents, tokenizer, row_tokens=50, tokens=400):
        assert (batch.ids_T[batch.pos_T == 0] == 7).all()


def test_peek_needs_no_weights(source: Path, texts: Path, tmp_path: Path) -> None:
    made(plan("int8"), source, tmp_path / "m", texts)
    (tmp_path / "m" / "model.safetensors").unlink()
    found = peek(tmp_path / "m").config.quantization
    assert found is not None
    assert found.format == "int8"
