"""Words counted in C++, many texts at once, are those counted in Python, byte for byte."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels import wordcount
from headrace.retrieval.stores import words

pytestmark = pytest.mark.skipif(wordcount.native() is None, reason="no native kernels here")

TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [
                "River",
                "rivers",
                "MILL",
                "mills'",
                "Élan",
                "İstanbul",
                "水車",
                "a1b2",
                "x" * 70,
                "_",
                "ΑΣ'Α",
                "β-cell",
                "e\u0301",
            ]
        ),
        max_size=20,
    ).map(" ".join),
)


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), max_size=8))
@settings(max_examples=300, deadline=None)
def test_both_ways_count_the_same(chunks: list[tuple[str, list[str]]]) -> None:
    assert words.count_many(chunks) == [words.count(text, titles) for text, titles in chunks]


def test_a_word_of_a_body_and_of_titles_is_one() -> None:
    (terms,) = words.count_many([("river " * 300 + "mill", ("Rivers", "", "wheel"))])
    assert terms == words.count("river " * 300 + "mill", ("Rivers", "", "wheel"))
    assert terms.length == 303
    assert list(terms.packed[24:]) == [255, 1, 0, 1, 0, 1]


def test_lone_surrogates_are_no_words() -> None:
    (terms,) = words.count_many([("river \ud800 mill\udfff", ("\udc00",))])
    assert terms == words.count("river \ud800 mill\udfff", ("\udc00",))


def test_texts_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordcount, "_BLOCK_BYTES", 50)
    chunks = [(f"river number{i} {'wheel ' * i}", (f"title {i}",)) for i in range(40)]
    assert words.count_many(chunks) == [words.count(*chunk) for chunk in chunks]


def test_forgotten_words_are_learned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = wordcount.native()
    assert lib is not None
    asked: list[str] = []

    def stem(word: str) -> int:
        asked.append(word)
        return len(word)

    counter = wordcount.Counter(lib, stem)
    chunk = [(b"one Two three", b"two")]
    first = counter.count(chunk)
    assert counter.count(chunk) == first
    assert sorted(asked) == ["one", "three", "two"]
    assert first == [(4, b"\3" + bytes(7) + b"\5" + bytes(7) + bytes([2, 1, 1, 0]))]
    monkeypatch.setattr(wordcount, "_KEPT_BYTES", 0)
    assert counter.count(chunk) == first
    assert len(asked) == 6


def test_threads_share_a_counter() -> None:
    lib = wordcount.native()
    assert lib is not None
    counter = wordcount.Counter(lib, words.hash_of)
    chunks = [(f"river word{i} word{i % 7} {i}".encode(), b"") for i in range(3000)]
    want = [words.count(body.decode(), ()) for body, _ in chunks]
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(counter.count(chunks))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [want] * 4
