"""Claims as people would write them, right in other words and nearly right: how many are told
apart.

Floors, not goals: what is measured stands in docs/answers.md. A right claim cited to another
passage is wrong, whatever its words are.
"""

import asyncio

import pytest

from cited_claims import written
from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.answering.verifying import Verifier
from headrace.types import CitationVerdict


def share_good(*, held: bool, right: bool) -> float:
    found = [case for case in written(held=held) if case.right is right]
    good = 0
    for case in found:
        verifier = Verifier(case.sources)
        [checked] = asyncio.run(verifier.verify(case.claim, [Reference(case.number)]))
        good += checked.good
    return good / len(found)


def test_there_are_enough_of_them() -> None:
    cases = list(written())
    assert sum(case.right for case in cases) >= 150
    assert sum(not case.right for case in cases) >= 150
    assert len({case.claim for case in cases}) == len(cases)


@pytest.mark.parametrize("held", [False, True])
def test_right_ones_stay_and_wrong_ones_do_not(held: bool) -> None:
    assert share_good(held=held, right=True) >= 0.8
    assert share_good(held=held, right=False) <= 0.3


@pytest.mark.parametrize("held", [False, True])
def test_a_right_claim_with_another_source_is_told_which_says_it(held: bool) -> None:
    told = shifted = 0
    for case in written(held=held):
        if not case.right:
            continue
        at = case.number % 3 + 1
        [checked] = asyncio.run(Verifier(case.sources).verify(case.claim, [Reference(at)]))
        assert not checked.good, case.claim
        shifted += 1
        if checked.verdict is CitationVerdict.MISPLACED:
            told += f"source {case.number} " in checked.reason
    assert told >= 0.5 * shifted
