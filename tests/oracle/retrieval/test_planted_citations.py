"""Citations planted in answers of real texts: wrong ones are caught, right ones stay.

The quick test is of the articles that the bars were chosen on, against regressions; the long one of
all. `bench/citations.py` reports the other half apart.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from citation_cases import KINDS, cases
from headrace.data.grounded import Passage
from headrace.data.squad import passages
from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.answering.verifying import Verifier
from headrace.types import CitationVerdict


def hold(texts: Sequence[Passage], count: int) -> None:
    found = list(cases(texts, seed=7, right=count, wrong=count))
    assert {case.kind for case in found if not case.right} == set(KINDS)
    struck = missed = 0
    for case in found:
        verifier = Verifier(case.sources, question=case.question)
        [checked] = asyncio.run(verifier.verify(case.claim, [Reference(case.number)]))
        if checked.source is not None and checked.quote:
            assert checked.source.text[checked.start : checked.end] == checked.quote
        if case.kind == "invented":
            assert checked.verdict is CitationVerdict.INVENTED
        struck += case.right and not checked.good
        missed += not case.right and checked.good
    assert struck <= 0.02 * count
    assert missed <= 0.02 * count


def test_wrong_citations_are_caught_and_right_ones_stay(shared_data: Path) -> None:
    texts = passages(shared_data / "squad_v2_dev" / "articles.json.gz")
    names = sorted({passage.article for passage in texts})
    hold([p for p in texts if names.index(p.article) % 2 == 0], 300)


@pytest.mark.slow
def test_so_it_is_over_all_articles(shared_data: Path) -> None:
    hold(passages(shared_data / "squad_v2_dev" / "articles.json.gz"), 3000)
