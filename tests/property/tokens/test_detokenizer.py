"""Streaming equals decoding at every prefix; any text survives the way there and back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.templates.families import CORPUS, sentencepiece_model
from headrace.tokens import Detokenizer, Tokenizer, layout, sentencepiece_file, train_bpe
from headrace.tokens.decoding import Lead
from headrace.tokens.train import train_unigram


def _sentencepiece(**options: object) -> Tokenizer:
    converted = sentencepiece_file.convert(sentencepiece_model(CORPUS, **options), name="test")
    return Tokenizer(layout.merged(converted.spec, {}, {}), config=converted.config)


def _metaspace() -> Tokenizer:
    made = train_unigram(CORPUS, vocab_size=400, special_tokens=["<s>"])
    spec = dict(made._spec)
    spec["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    return Tokenizer(spec)


@pytest.fixture(
    scope="module", params=["bpe", "sentencepiece", "no prefix", "unigram", "metaspace"]
)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    match request.param:
        case "bpe":
            return train_bpe(CORPUS, vocab_size=330, special_tokens=["<s>"], marks=["<think>"])
        case "sentencepiece":
            return _sentencepiece()
        case "no prefix":
            return _sentencepiece(add_dummy_prefix=False)
        case "unigram":
            return train_unigram(CORPUS, vocab_size=400, special_tokens=["<s>"])
        case _:
            return _metaspace()


def _check_prefixes(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> None:
    stream = Detokenizer(tokenizer, skip_special=skip)
    said = ""
    for end in range(len(ids)):
        said += stream.push(ids[end : end + 1])
        fork = Detokenizer(tokenizer, skip_special=skip)
        whole = fork.push(ids[: end + 1])
        assert said == whole
        assert whole + fork.flush() == tokenizer.decode(ids[: end + 1], skip_special=skip)
    assert said + stream.flush() == tokenizer.decode(ids, skip_special=skip)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_at_every_prefix(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    _check_prefixes(tokenizer, ids, skip=skip)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=12))
def test_any_text_at_every_prefix(tokenizer: Tokenizer, text: str) -> None:
    _check_prefixes(tokenizer, tokenizer.encode(text), skip=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cut(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    cut = data.draw(st.integers(0, len(ids)))
    stream = Detokenizer(tokenizer)
    assert stream.push(ids[:cut]) + stream.push(ids[cut:]) + stream.flush() == tokenizer.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    if tokenizer.decoding.lead is Lead.FIRST_TOKEN:
        text = "".join(char for char in text if char in "weathr").strip()  # it has no bytes
    if not tokenizer.decoding.byte_level:
        text = text.replace("▁", "_")  # SentencePiece's own space
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["<s>", "</s>", "<unk>", "<think>", "<0x0A>", "<", "s>", " ", "a", "\n"]),
        max_size=8,
    )
)
def test_text_never_spells_a_control_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    ids = tokenizer.encode("".join(parts))
    assert not any(tokenizer.is_control(token) for token in ids)


def test_ids_beyond_the_vocabulary_are_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Paris")
    stream = Detokenizer(tokenizer)
    padding = [tokenizer.vocab_size, tokenizer.vocab_size + 100]
    assert stream.push([*ids, *padding]) + stream.flush() == "Paris"


def test_kept_special_tokens_are_text() -> None:
    tokenizer = train_bpe(CORPUS, vocab_size=300, special_tokens=["[TOOL_CALLS]", "</s>"])
    ids = tokenizer.encode_control("[TOOL_CALLS]x</s>")
    stream = Detokenizer(tokenizer, keep=[tokenizer.special["[TOOL_CALLS]"]])
    assert stream.push(ids) + stream.flush() == "[TOOL_CALLS]x"
