"""Words as SQLite's FTS5 has them, counted and packed."""

import gzip
import json
import re
import sqlite3
from pathlib import Path

import pytest

from headrace.retrieval.stores import words
from headrace.retrieval.stores.porter import stem


def fts5_terms(texts: list[str]) -> dict[int, str]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE f USING fts5(b, tokenize='porter unicode61')")
    connection.execute("CREATE VIRTUAL TABLE v USING fts5vocab(f, instance)")
    connection.executemany("INSERT INTO f (rowid, b) VALUES (?, ?)", enumerate(texts))
    found = dict(connection.execute("SELECT doc, term FROM v").fetchall())
    connection.close()
    return found


ODD = (
    *("eed", "ing", "ed", "ies", "sses", "s", "as", "sky", "say", "y", "yy", "bless", "agreed"),
    *(
        "hopping",
        "hoping",
        "falling",
        "hissing",
        "fizzed",
        "failing",
        "filing",
        "happy",
        "rational",
    ),
    *(
        "sensational",
        "adoption",
        "controlling",
        "roll",
        "probate",
        "rate",
        "cease",
        "a1b2",
        "x" * 70,
    ),
)


def test_stems_are_fts5s(shared_data: Path) -> None:
    lines = gzip.decompress((shared_data / "scifact" / "corpus.jsonl.gz").read_bytes())
    text = " ".join(
        sentence
        for line in lines.decode().splitlines()[:1500]
        for sentence in json.loads(line)["sentences"]
    )
    known = sorted({*re.findall(r"[a-z0-9]+", text.lower())})
    assert len(known) > 10_000
    terms = fts5_terms(known)
    assert [w for i, w in enumerate(known) if terms[i] != stem(w)] == []


@pytest.mark.parametrize("word", ODD)
def test_odd_words_too(word: str) -> None:
    assert fts5_terms([word])[0] == stem(word)


def test_accents_case_and_underscores() -> None:
    assert words.words("Élan_vital ÜBER straße naïve") == [
        "elan",
        "vital",
        "uber",
        "straße",
        "naive",
    ]
    assert words.words("水車abcの") == ["水", "車", "abc", "の"]


def test_counts_come_back() -> None:
    packed = [
        words.count("river rivers mill", ("Mills",)),
        words.count("", ()),
        words.count("water " * 300, ()),
    ]
    unpacked = words.unpack([terms.packed for terms in packed])
    assert unpacked.counts.tolist() == [2, 0, 1]
    by_hash = dict(zip(unpacked.hashes.tolist(), unpacked.body.tolist(), strict=True))
    assert by_hash == {
        words.hash_of("river"): 2,
        words.hash_of("mill"): 1,
        words.hash_of("water"): 255,
    }
    assert unpacked.titles.tolist() == [0, 1, 0]
    assert [terms.length for terms in packed] == [4, 0, 300]


def test_a_question_of_stopwords_alone_keeps_them() -> None:
    assert words.query_terms("who is the miller") == [words.hash_of("miller")]
    assert words.query_terms("to be or not to be") == [words.hash_of("not")]
    assert words.query_terms("the who") == [words.hash_of("the"), words.hash_of("who")]
