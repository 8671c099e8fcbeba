"""`headrace data`: a corpus prepared, reported and looked into from the command line."""

import json
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.tokens import train_bpe


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", *words])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = [{"text": f"A sentence about number {number}, and its neighbours."} for number in "123"]
    lines.append({"text": "Ask ada@example.org.", "license": "GPL-3.0"})
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n")
    train_bpe(
        [line["text"] for line in lines], vocab_size=280, special_tokens=["<end>"], eos="<end>"
    ).save(tmp_path / "tok")
    return path


def test_prepare_report_inspect(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (str(texts), "--out", str(out), "--tokenizer", str(tmp_path / "tok"))
    words += ("--licence", "texts=MIT", "--scrub", "built-in", "--workers", "1")
    code, printed, _ = run(capsys, "prepare", *words, "--json")
    made = json.loads(printed)
    assert (code, made["documents"]["kept"], made["dropped"]) == (0, 4, {"not_json": 1})
    code, printed, _ = run(capsys, "report", str(out))
    assert code == 0
    assert "4 of 5 records kept" in printed
    assert "1 email" in printed
    code, printed, _ = run(capsys, "inspect", str(out), "--document", "3", "--verify")
    assert (code, printed) == (0, "Ask [EMAIL].\n")
    code, printed, _ = run(capsys, "inspect", str(texts), "--filter", "c4", "--json")
    assert [row["verdict"] for row in json.loads(printed)][3:] == ["c4:few_sentences", "not_json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prepare", "{texts}", "--out", "{out}", "--ray-address", "x"), "without --ray"),
        (("prepare", "{texts}", "--out", "{out}", "--filter", "c5"), "there are web"),
        (("prepare", "nothing.txt", "--out", "{out}"), "is not there"),
        (("prepare", "{texts}", "--out", "{out}", "--licence", "a=b"), "no source of that name"),
        (("inspect", "{texts}", "--verify"), "is not prepared data"),
        (("inspect", "{texts}", "--split", "test"), "there are train and held_out"),
        (("report", "{out}"), "is not prepared data"),
    ],
)
def test_what_cannot_be_done_is_said(
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    places = {"texts": str(texts), "out": str(tmp_path / "out")}
    code, _, said = run(capsys, *(word.format(**places) for word in words))
    assert code in (1, 2)
    assert message in said.replace("\n", " ")
