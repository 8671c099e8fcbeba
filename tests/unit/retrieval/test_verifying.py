"""Claims against a small corpus: what is supported however it is said, and what is not."""

import asyncio

import pytest

from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.answering.verifying import Checked, Verifier
from headrace.retrieval.packing import Source
from headrace.types import CitationVerdict

OIL = (
    "The 1973 oil crisis began in October 1973 when the members of the Organization of Arab "
    "Petroleum Exporting Countries (OAPEC) proclaimed an oil embargo. By the end of the embargo in "
    "March 1974, the price of oil had risen from US$3 per barrel to nearly $12 globally. The "
    "embargo was not lifted in the Netherlands until later. About 3,200,000 drivers queued, 45 "
    'percent of them in the United States. Nixon called it "the most serious shortage since World '
    'War II".'
)
BRIDGE = (
    "The Vey bridge is 1,200 metres long and was opened on 17 May 1931 by Ada Lindqvist, its "
    "engineer. Her brother Olaf Lindqvist painted it. It carries twenty-one trains a day. Before "
    "1931 a ferry crossed the strait. The bridge is older than the tunnel, which never paid for "
    "itself."
)
FERRY = (
    "The ferry of Vey sank in 1928. Its captain, Per Holm, was the only survivor of a crew of nine."
)
TEXTS = {1: (OIL, "Oil crisis"), 2: (BRIDGE, "Vey bridge"), 3: (FERRY, "Vey ferry")}


def verifier(question: str = "", *, start: int = 0) -> Verifier:
    sources = [
        Source(
            number=number,
            document=f"d{number}",
            start=start,
            end=start + len(text),
            text=text,
            title=title,
        )
        for number, (text, title) in TEXTS.items()
    ]
    return Verifier(sources, question=question)


def check(claim: str, *numbers: int, question: str = "") -> list[Checked]:
    references = [Reference(number) for number in numbers]
    return asyncio.run(verifier(question).verify(claim, references))


RIGHT = [
    (1, "The oil crisis started in October 1973"),
    (1, "In 1973 OAPEC announced an embargo on oil"),
    (1, "OAPEC members declared the embargo in October of 1973"),
    (1, "The Organization of Arab Petroleum Exporting Countries proclaimed an oil embargo"),
    (1, "Oil rose from $3 to almost $12 a barrel"),
    (1, "The price climbed from three dollars per barrel to nearly 12 dollars by March 1974"),
    (1, "The crisis was in the 1970s"),
    (1, "Around 3.2 million drivers queued, 45% of them in the U.S."),
    (1, "The embargo wasn't lifted in the Netherlands until later"),
    (1, "Nixon spoke of “the most serious shortage since World War II”"),
    (1, '"October 1973"'),
    (2, "The bridge, 1.2 km long, was opened in May 1931"),
    (2, "Ada Lindqvist opened the bridge on May 17, 1931"),
    (2, "On 1931-05-17 the Vey bridge opened"),
    (2, "21 trains a day use the Vey bridge"),
    (2, "Lindqvist, the bridge's engineer, opened it"),
    (2, "Until 1931 a ferry crossed the strait"),
    (2, "The tunnel never paid for itself"),
    (3, "Per Holm was the sole survivor of a crew of 9"),
    (3, "The ferry sank in the 20th century"),
]
WRONG = [
    (1, "The oil crisis started in November 1973"),
    (1, "The oil crisis began in 1974"),
    (1, "By October 1973 the price of oil had risen to nearly $12"),
    (1, "Oil rose from $12 to $3 a barrel and 50 percent of drivers queued"),
    (1, "About 3.2 billion drivers queued"),
    (1, "OPEC-Plus members of the African Union proclaimed an oil embargo"),
    (1, "The embargo was lifted in the Netherlands"),
    (1, "The oil crisis did not begin in October 1973"),
    (1, "The price of oil had fallen from US$3 per barrel to nearly $12"),
    (1, "Nixon called it “the most serious shortage since World War I”"),
    (1, "Carter called it the most serious shortage"),
    (2, "The Vey bridge was opened by Olaf Lindqvist in 1931"),
    (2, "The bridge is 1,200 kilometres long"),
    (2, "The bridge carries 31 trains a day"),
    (2, "The bridge is newer than the tunnel"),
    (2, "The tunnel paid for itself"),
    (2, "After 1931 a ferry crossed the strait"),
    (3, "Per Holm was the only survivor of a crew of 19"),
    (3, "The ferry sank in the 1930s"),
    (2, "Prices of oil rose to nearly $12 globally"),
]


@pytest.mark.parametrize(("number", "claim"), RIGHT)
def test_what_is_supported_however_it_is_said(number: int, claim: str) -> None:
    [found] = check(claim, number)
    assert found.good, found.reason
    assert found.support >= 0.5
    assert found.quote


@pytest.mark.parametrize(("number", "claim"), WRONG)
def test_what_is_not(number: int, claim: str) -> None:
    [found] = check(claim, number)
    assert not found.good, found.quote
    assert found.reason


def test_each_way_to_be_wrong_has_its_word() -> None:
    def verdict(claim: str, number: int) -> CitationVerdict:
        return check(claim, number)[0].verdict

    assert verdict("The crisis began in 1973", 9) is CitationVerdict.INVENTED
    assert verdict('It was "the worst shortage since 1945"', 1) is CitationVerdict.MISQUOTED
    assert verdict("The oil crisis began in October 1972", 1) is CitationVerdict.CONTRADICTED
    assert verdict("The ferry of Vey sank in 1928", 2) is CitationVerdict.MISPLACED
    assert verdict("Bread is baked from flour and water", 2) is CitationVerdict.UNSUPPORTED


def test_the_span_is_the_sentence_in_the_document() -> None:
    sources = verifier(start=500)
    [found] = asyncio.run(sources.verify("The Vey bridge opened on 17 May 1931", [Reference(2)]))
    assert found.quote.startswith("The Vey bridge is 1,200 metres")
    assert found.quote.endswith("its engineer.")
    assert (found.start, found.end) == (500, 500 + len(found.quote))


def test_a_mark_with_characters_is_held_to_them() -> None:
    begin = BRIDGE.index("It carries")
    inside, outside = Reference(2, begin, begin + 40), Reference(2, 0, begin)
    claim = "The bridge carries 21 trains a day"
    [one] = asyncio.run(verifier().verify(claim, [inside]))
    [other] = asyncio.run(verifier().verify(claim, [outside]))
    [past] = asyncio.run(verifier().verify(claim, [Reference(2, 5000, 5010)]))
    assert one.good
    assert not other.good
    assert past.verdict is CitationVerdict.INVENTED


def test_what_two_sources_carry_together() -> None:
    claim = "The ferry of Vey sank in 1928, and the Vey bridge was opened in May 1931"
    both = check(claim, 2, 3)
    assert [item.verdict for item in both] == [CitationVerdict.SUPPORTED] * 2
    three = check(claim, 1, 2, 3)
    assert [item.good for item in three] == [False, True, True]
    assert not check(claim, 2)[0].good


def test_a_short_answer_is_held_to_its_question() -> None:
    question = "When was the Vey bridge opened?"
    assert check("It was 1931", 2, question=question)[0].good
    assert check('"17 May 1931"', 2, question=question)[0].good
    assert not check("It was 1932", 2, question=question)[0].good


class Opinion:
    def __init__(self, likely: float | None) -> None:
        self.likely = likely
        self.asked: list[str] = []

    async def entails(self, claim: str, text: str) -> float | None:
        self.asked.append(claim)
        return self.likely


@pytest.mark.parametrize(("likely", "good"), [(0.9, True), (0.1, False), (None, False)])
def test_a_judge_decides_only_what_stands_on_the_edge(likely: float | None, good: bool) -> None:
    judge = Opinion(likely)
    sources = [Source(number=1, document="d", start=0, end=len(BRIDGE), text=BRIDGE)]
    judged = Verifier(sources, judge=judge)
    edge = "Vessels used to carry passengers over the strait"
    [found] = asyncio.run(judged.verify(edge, [Reference(1)]))
    assert found.good is good
    assert judge.asked == [edge]
    asyncio.run(judged.verify("The bridge carries 99 trains a day", [Reference(1)]))
    asyncio.run(judged.verify("It carries twenty-one trains a day", [Reference(1)]))
    assert judge.asked == [edge]
