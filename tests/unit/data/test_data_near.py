"""Near-duplicates and contamination: datasketch is the oracle of signatures, plants of the rest."""

import random

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.contamination import NgramIndex, strings
from headrace.data.minhash import Permutations, Scheme, sha1_hashes, signature, signatures
from headrace.data.near import Bands, Union, bands_for, clusters, jaccard, survivors
from headrace.data.words import ngram_hashes, words
from headrace.errors import DataError

HASHES = st.lists(st.integers(0, 2**32 - 1), max_size=40)
VOCABULARY = [f"w{number}" for number in range(3000)]


def oracle(hashes: list[int], count: int, seed: int, scheme: Scheme) -> np.ndarray:
    made = MinHash(num_perm=count, seed=seed, scheme=scheme.value, hashfunc=int)
    made.update_batch(hashes)
    return made.hashvalues


@given(sets=st.lists(HASHES, min_size=1, max_size=6), seed=st.integers(0, 99))
@pytest.mark.parametrize("scheme", list(Scheme))
def test_signatures_equal_datasketchs(scheme: Scheme, sets: list[list[int]], seed: int) -> None:
    permutations = Permutations.of(32, seed=seed, scheme=scheme)
    made = signatures([np.array(items, np.uint32) for items in sets], permutations)
    for row, items in zip(made, sets, strict=True):
        assert row.tolist() == oracle(items, 32, seed, scheme).tolist()


def test_texts_of_datasketchs_own_hash_and_many_batches_too() -> None:
    shingles = [f"shingle {number}".encode() for number in range(500)]
    theirs = MinHash(num_perm=128, seed=1)
    theirs.update_batch(shingles)
    ours = signature(sha1_hashes(shingles), Permutations.of(128))
    assert ours.tolist() == theirs.hashvalues.tolist()
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 2**32, size, np.uint32) for size in (70_000, 0, 3, 66_000, 1)]
    permutations = Permutations.of(16)
    for row, items in zip(signatures(sets, permutations), sets, strict=True):
        assert row.tolist() == oracle(items.tolist(), 16, 1, Scheme.AFFINE32).tolist()


def shingles_of(text: str, n: int = 5) -> np.ndarray:
    return np.unique((ngram_hashes(words(text), n) >> np.uint64(32)).astype(np.uint32))


def planted(
    rng: random.Random, *, pairs: int, others: int
) -> tuple[list[str], set[tuple[int, int]]]:
    """Texts, and the pairs among them whose exact similarity is at least 0.85."""
    texts: list[list[str]] = []
    for _ in range(pairs):
        base = rng.choices(VOCABULARY, k=rng.randint(80, 400))
        texts.append(base)
        other = list(base)
        # Between nothing and enough to fall to about 0.6: some pairs lie on either side.
        for _ in range(rng.randint(0, max(1, len(base) // 22))):
            other[rng.randrange(len(other))] = rng.choice(VOCABULARY)
        texts.append(other)
    texts += [rng.choices(VOCABULARY, k=rng.randint(20, 400)) for _ in range(others)]
    spoken = [" ".join(text) for text in texts]
    near = {
        (left, left + 1)
        for left in range(0, 2 * pairs, 2)
        if jaccard(shingles_of(spoken[left]), shingles_of(spoken[left + 1])) >= 0.85
    }
    return spoken, near


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    texts, near = planted(random.Random(4), pairs=300, others=400)
    assert 60 < len(near) < 290
    sets = [shingles_of(text) for text in texts]
    made = signatures(sets, Permutations.of(128))
    labels = clusters(made, sets.__getitem__, bands=bands_for(128, 0.85), threshold=0.85)
    found = {(int(label), place) for place, label in enumerate(labels) if label != place}
    hits = len(found & near)
    assert hits / len(near) >= 0.95
    assert hits / len(found) >= 0.95


def test_a_bucket_of_boilerplate_is_one_cluster_whose_longest_stays() -> None:
    rng = random.Random(1)
    base = rng.choices(VOCABULARY, k=300)
    texts = [" ".join([*base, f"page{number}"]) for number in range(150)] + ["something else here"]
    sets = [shingles_of(text) for text in texts]
    labels = clusters(
        signatures(sets, Permutations.of(64)),
        sets.__getitem__,
        bands=bands_for(64, 0.8),
        threshold=0.8,
    )
    assert labels.tolist() == [0] * 150 + [150]
    lengths = [len(text) for text in texts]
    kept = survivors(labels, lengths)
    assert set(kept[:150]) == {lengths.index(max(lengths[:150]))}
    assert kept[150] == 150


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_union_find_is_the_closure_of_its_pairs(joins: list[tuple[int, int]]) -> None:
    union = Union(10)
    for left, right in joins:
        union.join(left, right)
    slow = list(range(10))
    for _ in range(10):
        for left, right in joins:
            slow[left] = slow[right] = min(slow[left], slow[right])
    assert union.labels().tolist() == slow


def test_bands_find_what_they_promise() -> None:
    assert bands_for(128, 0.85).recall(0.85) >= 0.995
    assert Bands(count=16, rows=8).recall(0.8) == pytest.approx(1 - (1 - 0.8**8) ** 16)
    with pytest.raises(DataError, match="more permutations"):
        bands_for(4, 0.1)


WORD = st.sampled_from(["alpha", "beta", "Gamma", "δέλτα", "5", "了"])


@given(spoken=st.lists(WORD, max_size=30), n=st.integers(1, 6))
def test_ngram_hashes_are_equal_exactly_where_ngrams_are(spoken: list[str], n: int) -> None:
    size = min(n, len(spoken))
    grams = [tuple(spoken[i : i + size]) for i in range(len(spoken) - size + 1)] if spoken else []
    hashes = ngram_hashes(spoken, n).tolist()
    assert len(set(zip(grams, hashes, strict=True))) == len(set(grams)) == len(set(hashes))


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert words("The_End, of 3.14 Straße") == ["the_end", "of", "3", "14", "straße"]
    assert words("我们abc ｆｕｌｌ") == ["我", "们", "abc", "full"]


def test_every_planted_ngram_is_found() -> None:
    rng = random.Random(7)
    questions = [" ".join(rng.choices(VOCABULARY, k=rng.randint(8, 40))) for _ in range(200)]
    index = NgramIndex.of({"quiz": [*questions, "too short"], "other": [questions[0]]})
    assert (index.texts, index.too_short) == (202, 1)
    clean = [rng.choices(VOCABULARY, k=100) for _ in range(300)]
    assert [index.found_in(text) for text in clean] == [None] * 300
    for question in questions:
        asked = question.split()
        start = rng.randint(0, max(0, len(asked) - 13))
        run = asked[start : start + 13]
        text = rng.choices(VOCABULARY, k=60)
        place = rng.randint(0, 60)
        dirty = " , ".join([*text[:place], *(word.upper() for word in run), *text[place:]])
        assert index.found_in(words(dirty)) == "quiz"


def test_twelve_words_of_a_longer_text_are_not_enough() -> None:
    asked = VOCABULARY[:13]
    index = NgramIndex.of({"quiz": [" ".join(asked)]})
    assert index.found_in(asked[:12]) is None
    assert index.found_in(["x", *asked, "y"]) == "quiz"
    assert index.found_in([]) is None


def test_an_index_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="none of 1 texts has 8 words"):
        NgramIndex.of({"quiz": ["four"]})
    with pytest.raises(DataError, match="common speech"):
        NgramIndex.of({"quiz": ["four"]}, n=3)


def test_strings_of_any_record() -> None:
    record = {"question": "q", "choices": {"text": ["a", "b"]}, "answer": 3, "none": None}
    assert list(strings(record)) == ["q", "a", "b"]
