"""Claims written by hand about made-up passages: right ones in other words, wrong ones that are
nearly right.

`tests/fixtures/cited_claims.txt` has a title, a passage, and lines `+ way: claim` and
`- kind: claim`. The first passages chose rules; those from `Northern Isles Authority` on did not.
"""

from collections.abc import Iterator
from pathlib import Path

from citation_cases import Case
from headrace.retrieval.packing import Source

_FILE = Path(__file__).parent / "fixtures" / "cited_claims.txt"
HELD = ("Northern Isles Authority", "Vasquez crater", "Marta Feld", "Lindqvist process")
"""Titles of the passages that chose nothing."""


def written(*, held: bool | None = None) -> Iterator[Case]:
    """Each claim before its own passage and two others; None = of all passages."""
    blocks = [block.strip().split("\n") for block in _FILE.read_text("utf-8").split("# ")[1:]]
    texts = [(block[0], block[1]) for block in blocks]
    for at, block in enumerate(blocks):
        title = block[0]
        if held is not None and (title in HELD) is not held:
            continue
        shown = [texts[(at + step) % len(texts)] for step in range(3)]
        number = 1 + at % 3
        shown[0], shown[number - 1] = shown[number - 1], shown[0]
        sources = tuple(_source(n, *pair) for n, pair in enumerate(shown, start=1))
        for line in block[2:]:
            sign, _, rest = line.partition(" ")
            kind, _, claim = rest.partition(": ")
            assert sign in "+-", line
            assert claim, line
            yield Case(
                article=title,
                kind=f"right/{kind}" if sign == "+" else kind,
                claim=claim,
                number=number,
                sources=sources,
            )


def _source(number: int, title: str, text: str) -> Source:
    return Source(number=number, document=title, start=0, end=len(text), text=text, title=title)
