"""A model and held-out grounded questions -> exact match, F1, citations and refusals.

Exact match and F1 are SQuAD 2.0's (Rajpurkar et al. 2018, arXiv 1806.03822, and its evaluation
script): after lower case, without punctuation and articles, against the best of the accepted
answers; of a question without an answer, 1 for a refusal and 0 for anything else.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.data.grounded import Question, Quote, parse
from headrace.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Means over the questions; fractions of 1."""

    exact_match: float
    f1: float
    answerable_exact_match: float
    """Over the questions that have an answer."""
    answerable_f1: float
    refused: float
    """Of the questions without an answer."""
    refused_wrongly: float
    """Of those with one."""
    cited: float
    """Of the answers that were given to answerable questions: the right source's number."""
    verbatim: float
    """Of the answers that were given: the words stand in the source whose number is given."""
    questions: int


def score(answer: Callable[[Question], str], questions: Sequence[Question]) -> Score:
    """Ask every question once.

    Args:
        answer: What a model says to it.
        questions: None of which, nor their texts, was trained on.

    Raises:
        DataError: No question.
    """
    if not questions:
        raise DataError("no question was held out to score; hold out more articles")
    quotes = [parse(answer(question)) for question in questions]
    marks = [mark(question, quote) for question, quote in zip(questions, quotes, strict=True)]
    pairs = list(zip(questions, quotes, marks, strict=True))
    has = [item for item in pairs if item[0].answerable]
    lacks = [item for item in pairs if not item[0].answerable]
    given = [(q, quote) for q, quote, _ in pairs if not quote.refused]
    return Score(
        exact_match=_mean([m.exact for _, _, m in pairs]),
        f1=_mean([m.f1 for _, _, m in pairs]),
        answerable_exact_match=_mean([m.exact for _, _, m in has]),
        answerable_f1=_mean([m.f1 for _, _, m in has]),
        refused=_mean([quote.refused for _, quote, _ in lacks]),
        refused_wrongly=_mean([quote.refused for _, quote, _ in has]),
        cited=_mean([quote.number == q.cited for q, quote in given if q.answerable]),
        verbatim=_mean([_stands(q, quote) for q, quote in given]),
        questions=len(pairs),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One answer's."""

    exact: float
    f1: float


def mark(question: Question, quote: Quote) -> Mark:
    """SQuAD 2.0's marks of one answer."""
    if not question.answerable or quote.refused:
        right = float(quote.refused and not question.answerable)
        return Mark(exact=right, f1=right)
    said = normalised(quote.text)
    accepted = [normalised(text) for text in question.answers]
    return Mark(exact=float(said in accepted), f1=max(overlap(said, text) for text in accepted))


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def overlap(said: str, accepted: str) -> float:
    """F1 of the words, each as often as it occurs."""
    a, b = said.split(), accepted.split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def _stands(question: Question, quote: Quote) -> bool:
    inside = 1 <= quote.number <= len(question.sources)
    return inside and bool(quote.text) and quote.text in question.sources[quote.number - 1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
