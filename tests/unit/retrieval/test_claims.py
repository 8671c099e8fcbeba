"""What a mark is about, wherever the stream was cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.retrieval.answering.claims import Cited, ClaimReader


def read(text: str, *cuts: int) -> tuple[list[Cited], str]:
    reader = ClaimReader()
    found: list[Cited] = []
    for start, end in pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]):
        found += reader.push(text[start:end])
    return found + reader.flush(), reader.text


CASES = [
    ("It began in 1973 [1]. It ended in 1974 [2].", ["It began in 1973", "It ended in 1974"]),
    ("It began in 1973. [1] It ended.[2]", ["It began in 1973.", "It ended."]),
    ("It began in 1973 [1] and ended in 1974 [2].", ["It began in 1973", "and ended in 1974"]),
    ("It began [1][2], [3].", ["It began", "It began", "It began"]),
    ("It began [1]. [2] It ended.", ["It began", "It began"]),
    ("[1] says that it began. It ended [2].", ["says that it began.", "It ended"]),
    ("According to [1], it began in 1973. So.", ["it began in 1973."]),
    ("According to [1] and [2], it began.", ["it began.", "it began."]),
    ("- It began [1]\n- It ended [2]\n", ["It began", "It ended"]),
    ("One thing. Mr. J. Smith of the U.S. said so [1].", ["Mr. J. Smith of the U.S. said so"]),
    ('"October 1973" [1]', ['"October 1973"']),
    ("Some say (it began [1]) so.", ["Some say (it began"]),
    ("[1]", [""]),
    ("No marks here.", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_a_mark_is_about(text: str, expected: list[str]) -> None:
    found, whole = read(text)
    assert [item.text for item in found] == expected
    assert whole == text
    for item in found:
        assert text[item.mark_start : item.mark_end].startswith("[")
        assert item.text in text[item.claim_start : item.claim_end].replace("[1]", "")


@given(text=st.sampled_from([text for text, _ in CASES]), cuts=st.lists(st.integers(0, 60)))
def test_claims_do_not_depend_on_the_parts(text: str, cuts: list[int]) -> None:
    assert read(text, *cuts) == read(text)
