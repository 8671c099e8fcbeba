"""Which brackets cite, wherever the stream was cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.retrieval.answering.marks import Mark, MarkReader, Reference


def read(text: str, *cuts: int) -> list[str | Mark]:
    reader = MarkReader()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found: list[str | Mark] = []
    for start, end in pairwise(edges):
        found += reader.push(text[start:end])
    return found + reader.flush()


def marks(text: str, *cuts: int) -> list[tuple[int, ...]]:
    return [
        tuple(r.source for r in piece.references)
        for piece in read(text, *cuts)
        if isinstance(piece, Mark)
    ]


CASES = [
    ("It began in 1973 [1].", [(1,)]),
    ("It began in 1973.[1] It ended. [2]", [(1,), (2,)]),
    ("Both [1, 2] and [1][3] and [2; 4] and [1-3].", [(1, 2), (1,), (3,), (2, 4), (1, 2, 3)]),
    ('"October 1973" [1]', [(1,)]),
    ("It began in Normandy[1], they say[12].", [(1,), (12,)]),
    ("[1] says that it began.", [(1,)]),
    ("A note[^2] and [S3] and ([4]).", [(2,), (3,), (4,)]),
    ("See `a[1]` and ``b`[2]`` and then [3].", [(3,)]),
    ("```python\nx = a[1]\ny = [1]\n```\nSo it is [2].", [(2,)]),
    ("Say `unclosed [1]\nnext line [2].", [(2,)]),
    ("xs = [1, 2] and the list [1, 2] of x[1] and my_rows[2] and rowCount[3].", []),
    ("The array [1] is short, values[0] = 3, items[1].name, calls[2](x).", []),
    ("A link [1](https://example.org) and [text] and [a1] and [] and [1", []),
    ("[[1]] is one.", []),
    ("A long [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22].", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_cites(text: str, expected: list[tuple[int, ...]]) -> None:
    assert marks(text) == expected


def test_a_mark_may_name_characters() -> None:
    [_, mark, _] = read("So it is [3:120-188, 2].")
    assert isinstance(mark, Mark)
    assert mark.references == (Reference(3, 120, 188), Reference(2))


@given(
    text=st.one_of(
        st.sampled_from([text for text, _ in CASES]),
        st.text(alphabet="[]1,2 :-`a.=(\n", max_size=40),
    ),
    cuts=st.lists(st.integers(0, 90), max_size=12),
)
def test_pieces_are_the_text_and_do_not_depend_on_its_parts(text: str, cuts: list[int]) -> None:
    def plain(pieces: list[str | Mark]) -> str:
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)

    assert plain(read(text, *cuts)) == text
    assert marks(text, *cuts) == marks(text)


def test_text_that_cannot_become_a_mark_is_not_held_back() -> None:
    reader = MarkReader()
    assert reader.push("It began [in") == ["It began [in"]
    assert reader.push(" 1973 [1") == [" 1973 "]
    assert [p.text if isinstance(p, Mark) else p for p in reader.push("]. So")] == ["[1]", ". So"]
