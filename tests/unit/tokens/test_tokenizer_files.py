"""Special tokens, BOS, ids out of range, and files that are not what they seem."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.templates.families import CORPUS, sentencepiece_model
from headrace.errors import InvalidParameter, TokenizerError
from headrace.tokens import Tokenizer, train_bpe, train_unigram


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(
        CORPUS,
        vocab_size=350,
        special_tokens=["<pad>", "<s>", "<|end|>"],
        marks=["<think>"],
        bos="<s>",
        eos="<|end|>",
    )


def test_the_named_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 350
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.special == {"<pad>": 0, "<s>": 1, "<|end|>": 2}
    assert tokenizer.controls == {**tokenizer.special, "<think>": 349}
    assert tokenizer.is_special(0)
    assert not tokenizer.is_special(349)
    assert tokenizer.token_bytes(349) == b"<think>"
    assert tokenizer.token_id("<s>") == 1


@pytest.mark.parametrize("text", ["", "Paris", "<s>Paris", "<s><s>Paris", "<s>"])
def test_exactly_one_bos(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_prompt(text)
    assert ids[0] == tokenizer.bos_id
    assert ids.count(1) == 1


def test_no_bos_where_the_model_wants_none() -> None:
    plain = train_bpe(CORPUS, vocab_size=300, special_tokens=["<s>"], eos="<s>")
    assert not plain.adds_bos
    assert plain.encode_prompt("a") == plain.encode("a")


def test_bos_where_only_the_config_asks_for_it() -> None:
    made = train_bpe(CORPUS, vocab_size=300, special_tokens=["<s>"])
    config = {"bos_token": "<s>", "add_bos_token": True}
    asked = Tokenizer(made._spec, config=config)
    assert asked.encode_prompt("a") == [0, *made.encode("a")]


@pytest.mark.parametrize("method", ["encode", "encode_control", "encode_prompt"])
def test_a_lone_surrogate_is_named(tokenizer: Tokenizer, method: str) -> None:
    with pytest.raises(InvalidParameter, match=r"U\+DC41 at character 2"):
        getattr(tokenizer, method)("ab\udc41")


@pytest.mark.parametrize("token", [-1, 350, 10**9])
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(InvalidParameter, match="ids are 0 to 349"):
        tokenizer.decode([5, token])
    with pytest.raises(InvalidParameter, match="outside the vocabulary"):
        tokenizer.token_bytes(token)


def test_save_and_load_are_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new", chat_template="x")
    loaded = Tokenizer.load(tmp_path / "new")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.config == tokenizer.config
    assert (tmp_path / "new" / "chat_template.jinja").read_text() == "x"
    other = train_bpe(CORPUS, vocab_size=340, special_tokens=["<s>"])
    assert other.fingerprint != tokenizer.fingerprint


def test_other_files_name_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    config: dict[str, Any] = {
        "add_bos_token": False,
        "bos_token": {"content": "<s>"},
        "eos_token": None,
        "added_tokens_decoder": {"350": {"content": "<new>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<think>"}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.eos_id == 349
    assert loaded.is_special(349), "a token named by role is special"
    assert loaded.special["<new>"] == 350
    assert loaded.adds_bos, "the post-processor says so, and transformers goes by it"
    assert 350 not in loaded.encode("<new>")


def test_nothing_is_truncated_or_padded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert len(Tokenizer.load(tmp_path).encode("a b c d e f g")) > 2


BROKEN = {
    "not JSON": b"{",
    "no object": b"[]",
    "no model": b'{"a": 1}',
    "not UTF-8": b"\xff\xfe",
    "a broken model": b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}, '
    b'"decoder": {"type": "ByteLevel"}}',
    "no vocabulary": b'{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}',
    "another decoder": b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}, '
    b'"decoder": {"type": "WordPiece"}}',
    "no decoder": b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}',
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_tokenizer_json(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x0a\xff", b"\x00" * 100, bytes(range(256))])
def test_a_broken_sentencepiece_file(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(TokenizerError, match="SentencePiece"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("size", [1, 50, 1000, -1])
def test_a_sentencepiece_file_that_is_cut_off(size: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(CORPUS)[:size])
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_a_sentencepiece_file_of_another_kind(kind: str, tmp_path: Path) -> None:
    options = {"model_type": kind, "byte_fallback": False, "vocab_size": 40}
    (tmp_path / "x.model").write_bytes(sentencepiece_model(CORPUS, **options))
    with pytest.raises(TokenizerError, match="not a SentencePiece model of type BPE or Unigram"):
        Tokenizer.load(tmp_path / "x.model")


@pytest.mark.parametrize("line", [b"YQ== x", b"Y!== 1", b"YQ==", b"YQ== 0"])
def test_a_broken_rank_file(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(b"YQ== 0\n" + line + b"\n")
    with pytest.raises(TokenizerError, match="line 2"):
        Tokenizer.load(tmp_path)


def test_a_rank_file_of_unknown_split(tmp_path: Path) -> None:
    (tmp_path / "some.tiktoken").write_bytes(b"YQ== 0\n")
    with pytest.raises(TokenizerError, match="split pattern is unknown"):
        Tokenizer.load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"looked for tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.load(tmp_path / "absent")


def test_ids_that_contradict_the_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 999, "content": "<far>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match="'<far>' has id 999"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("learn", [train_bpe, train_unigram])
def test_training_that_cannot_be_done(learn: Any) -> None:
    with pytest.raises(TokenizerError, match="make it at least"):
        learn(CORPUS, vocab_size=100, special_tokens=["<s>"])
    with pytest.raises(TokenizerError, match="distinct"):
        learn(CORPUS, vocab_size=400, special_tokens=["<s>", "<s>"])
    with pytest.raises(TokenizerError, match="eos '</s>' is not one of"):
        learn(CORPUS, vocab_size=400, special_tokens=["<s>"], eos="</s>")


def test_training_is_deterministic() -> None:
    first, second = (train_bpe(CORPUS, vocab_size=330, special_tokens=["<s>"]) for _ in range(2))
    assert first.fingerprint == second.fingerprint
