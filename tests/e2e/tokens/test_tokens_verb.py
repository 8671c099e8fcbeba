"""`headrace tokens` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures.templates.families import CORPUS, HERE
from headrace.tokens import ChatTemplate, Tokenizer, render, train_bpe
from headrace.types import Message, Role, TextPart

CHAT = [{"role": "user", "content": "What is <|im_end|> 北京?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    made = train_bpe(
        CORPUS, vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"
    )
    made.save(directory, chat_template=(HERE / "chatml.jinja").read_text())
    return directory


def _run(*words: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "tokens", *words],
        input=stdin.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    return (done.stdout if code == 0 else done.stderr).decode()


def _json(*words: str, stdin: str = "") -> Any:
    return json.loads(_run(*words, "--json", stdin=stdin))


def test_count_for_several_models(model: Path, tmp_path: Path) -> None:
    chat, text = tmp_path / "chat.json", tmp_path / "a.txt"
    chat.write_text(json.dumps(CHAT))
    text.write_text("What is the weather?")
    tokenizer = Tokenizer.load(model)
    words = ["count", "Paris", "--file", str(text), "--chat", str(chat)]
    counts = _json(*words, "-m", str(model), "-m", str(model / "tokenizer.json"), "Rome")[:4]
    rendered = render(
        tokenizer,
        ChatTemplate.load(model),
        [Message(role=Role.USER, parts=(TextPart(text=CHAT[0]["content"]),))],
    )
    assert [item["tokens"] for item in counts] == [
        len(tokenizer.encode("Paris")),
        len(tokenizer.encode("Rome")),
        len(tokenizer.encode(text.read_text())),
        len(rendered.ids),
    ]


def test_count_reads_standard_input(model: Path) -> None:
    shown = _run("count", "-m", str(model), stdin="Paris Paris")
    assert "stdin" in shown
    assert str(len(Tokenizer.load(model).encode("Paris Paris"))) in shown


def test_inspect_a_chat(model: Path) -> None:
    body = json.dumps({"messages": CHAT})
    words = ["inspect", "-m", str(model), "--chat", "-", "--price-per-mtok", "2.5"]
    found = _json(*words, stdin=body)[0]
    tokenizer = Tokenizer.load(model)
    ids = [token["id"] for token in found["tokens"]]
    assert tokenizer.decode(ids, skip_special=False) == found["text"]
    controls = [token["text"] for token in found["tokens"] if token["control"]]
    assert controls == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert {span["role"] for span in found["spans"]} == {"user", None}
    assert float(found["cost_usd"]) == pytest.approx(len(ids) * 2.5e-6)
    shown = _run(*words, stdin=body)
    assert "message 0 part 0 · user · user" in shown
    assert "as a prompt" in shown


def test_train_then_use(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join(CORPUS))
    (tmp_path / "b.md").write_text("Weather in Rome\n" * 5)
    out = tmp_path / "out"
    words = ["train", str(tmp_path / "texts"), str(tmp_path / "b.md"), "--out", str(out)]
    made = _json(*words, "--vocab-size", "350", "--special", "<pad>", "--eos", "<|end|>")
    tokenizer = Tokenizer.load(out)
    assert made["vocab_size"] == tokenizer.vocab_size == 350
    assert made["fingerprint"] == tokenizer.fingerprint
    assert tokenizer.special == {"<pad>": 0, "<|end|>": 1}
    assert _json("count", "Rome", "-m", str(out))[0]["tokens"] > 0


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (["count", "x", "-m", "/nowhere/at/all"], "", "/nowhere/at/all"),
        (["count", "--file", "/nowhere.txt"], "", "/nowhere.txt"),
        (["count", "--chat", "-"], "{", "JSON"),
        (["count", "--chat", "-"], '[{"role": "user"}]', "content"),
        (["count", "--chat", "-"], '{"messages": [], "nonsense": 1}', "messages"),
    ],
)
def test_errors_say_what_to_do(model: Path, words: list[str], stdin: str, said: str) -> None:
    if "-m" not in words:
        words = [*words, "-m", str(model)]
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "tokens", *words],
        input=stdin.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.decode().startswith("error: ")
    assert said in done.stderr.decode()
