"""SQuAD's marks, and what is counted beside them."""

import pytest

from headrace.data.grounded import Question, Quote
from headrace.errors import DataError
from headrace.training import quoting

KNOWN = Question(
    id="k", text="When?", sources=("It ended.", "It began in May 1973."),
    answers=("May 1973", "in May"), cited=2,
)  # fmt: skip
UNKNOWN = Question(id="u", text="Who?", sources=("It ended.",))


@pytest.mark.parametrize(
    ("question", "quote", "exact", "f1"),
    [
        (KNOWN, Quote(text="the May, 1973!", number=2), 1.0, 1.0),
        (KNOWN, Quote(text="May", number=2), 0.0, 2 / 3),
        (KNOWN, Quote(text="June", number=2), 0.0, 0.0),
        (KNOWN, Quote(text="", number=0, refused=True), 0.0, 0.0),
        (UNKNOWN, Quote(text="", number=0, refused=True), 1.0, 1.0),
        (UNKNOWN, Quote(text="ended", number=1), 0.0, 0.0),
    ],
)
def test_marks(question: Question, quote: Quote, exact: float, f1: float) -> None:
    found = quoting.mark(question, quote)
    assert found.exact == exact
    assert found.f1 == pytest.approx(f1)


def test_a_score_counts_citations_and_refusals_apart() -> None:
    said = {"k": '"May 1973" [1]', "u": "The sources do not say."}
    found = quoting.score(lambda question: said[question.id], [KNOWN, UNKNOWN])
    assert (found.exact_match, found.answerable_f1, found.refused) == (1.0, 1.0, 1.0)
    assert (found.cited, found.verbatim, found.refused_wrongly) == (0.0, 0.0, 0.0)
    said["k"] = '"May 1973" [2]'
    found = quoting.score(lambda question: said[question.id], [KNOWN, UNKNOWN])
    assert (found.cited, found.verbatim) == (1.0, 1.0)
    with pytest.raises(DataError, match="held out"):
        quoting.score(lambda question: "", [])
