"""Tokenizers of several manners, and texts with every structure, to cut and to check."""

import re
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st

from headrace.retrieval.chunking import Chunker, Chunking
from headrace.types import Chunk, SourceDocument

_WORDS = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> Sequence[int]:
    """A token is a word or a sign."""
    return [found.start() for found in _WORDS.finditer(text)]


def characters(text: str) -> Sequence[int]:
    """A token is a character, blanks too."""
    return range(len(text))


def utf8(text: str) -> Sequence[int]:
    """A token is a byte: several begin at one character."""
    return [at for at, character in enumerate(text) for _ in character.encode("utf-8", "replace")]


def pairs(text: str) -> Sequence[int]:
    """A token is two characters of a word, so that a cut in one may count more than the whole."""
    return [
        at for found in re.finditer(r"\S+", text) for at in range(found.start(), found.end(), 2)
    ]


TOKENIZERS = {"words": words, "characters": characters, "utf8": utf8, "pairs": pairs}

_WORD = st.sampled_from(
    [
        "alpha",
        "beta.",
        "Gamma",
        "delta,",
        "42",
        "naïve",
        "日本語。",
        "x" * 40,
        "e\u0301",
        "\U0001f600",
    ]
)
_SENTENCE = st.lists(_WORD, min_size=1, max_size=30).map(" ".join)
_PARAGRAPH = st.lists(_SENTENCE, min_size=1, max_size=4).map("\n".join)
_HEADING = st.tuples(st.integers(1, 4), _SENTENCE).map(lambda t: "#" * t[0] + " " + t[1][:60])
_LIST = st.lists(_SENTENCE, min_size=1, max_size=6).map(lambda i: "\n".join(f"- {x}" for x in i))
_TABLE = st.lists(st.lists(_WORD, min_size=2, max_size=2), min_size=1, max_size=9).map(
    lambda rows: "\n".join(["| a | b |", "| --- | --- |", *(f"| {x} | {y} |" for x, y in rows)])
)
_FENCE = _PARAGRAPH.map(lambda text: f"```\n{text}\n```")
TEXTS = st.lists(
    _PARAGRAPH | _HEADING | _LIST | _TABLE | _FENCE | st.text(max_size=80), max_size=12
).flatmap(
    lambda parts: st.sampled_from(["\n\n", "\n", "\n \n\n"]).map(lambda glue: glue.join(parts))
)


def cut(
    text: str, *, tokenizer: str = "words", media_type: str = "text/markdown", **sizes: int
) -> tuple[Chunk, ...]:
    """The chunks of a text; nothing is repeated or joined that the sizes do not ask for."""
    sizes = {"overlap_tokens": 0, "min_tokens": 0, **sizes}
    chunker = Chunker(Chunking(**sizes), TOKENIZERS[tokenizer], tokenizer=tokenizer)
    return chunker.chunks(SourceDocument(id="d", text=text, media_type=media_type))


def check(text: str, chunks: Sequence[Chunk], chunking: Chunking, tokenizer: str) -> None:
    """Every promise of a chunker."""
    offsets = TOKENIZERS[tokenizer]
    covered = bytearray(len(text))
    for at, chunk in enumerate(chunks):
        assert chunk.ordinal == at
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text == chunk.text.strip() != ""
        assert chunk.tokens == len(offsets(chunk.text))
        assert chunk.tokens <= chunking.max_tokens
        assert len(offsets(chunk.embedded)) <= chunking.max_tokens
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
        if chunk.parent_start != chunk.parent_end:
            assert chunk.parent_start <= chunk.start < chunk.end <= chunk.parent_end
        else:
            assert chunk.parent_start == 0
    assert all(covered[at] or text[at].isspace() for at in range(len(text)))
    ends = [(chunk.start, chunk.end) for chunk in chunks]
    assert ends == sorted(ends)
    assert all(b[1] > a[1] for a, b in pairwise(ends))
