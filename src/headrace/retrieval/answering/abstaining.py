"""When what was found is so far from the question that no model need be asked.

`relevance` is one number of a search's result; `calibrate` finds the bar for it on questions of
which it is known whether the index answers them, so that at most a given share of answerable ones
is turned away. How far that helps is the index' own: questions that nobody can answer are often
worded like those that somebody can.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.errors import InvalidParameter
from headrace.retrieval.answering.words import words_of
from headrace.types import SearchResult

_BEST = 3


def relevance(found: SearchResult) -> float:
    """How near the best passages are, 0 to 1: by cosine where they have it, else by BM25's bend."""
    best = 0.0
    for passage in found.passages[:_BEST]:
        cosine = passage.features.get("cosine")
        if cosine is not None:
            best = max(best, cosine)
        elif "bm25" in passage.features:
            bm25 = max(0.0, passage.features["bm25"])
            best = max(best, bm25 / (bm25 + 10.0))
        else:
            best = max(best, passage.score)
    return min(1.0, max(0.0, best))


def spoken_of(question: str, found: SearchResult) -> float:
    """Share of a question's words, names and numbers that the best passages have."""
    wanted = {word.stem for word in words_of(question) if word.content}
    wanted |= set(re.findall(r"\d+", question))
    if not wanted:
        return 0.0
    shown = " ".join(passage.chunk.text for passage in found.passages[:_BEST])
    there = {word.stem for word in words_of(shown)} | set(re.findall(r"\d+", shown))
    return len(wanted & there) / len(wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One question of a calibration."""

    relevance: float
    answerable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A threshold and what it does on the questions it was found on."""

    below: float
    turned_away: float
    """Share of answerable questions that are not asked."""
    saved: float
    """Share of unanswerable ones that are not asked."""
    trials: int


def calibrate(trials: Iterable[Trial], *, at_most: float = 0.02) -> Bar:
    """The highest bar that turns away at most such a share of answerable questions.

    Args:
        trials: Of both kinds.
        at_most: Share of answerable questions, 0 to 1.

    Raises: InvalidParameter: One kind is missing, or the share is none.
    """
    known = list(trials)
    good = sorted(trial.relevance for trial in known if trial.answerable)
    bad = [trial.relevance for trial in known if not trial.answerable]
    if not good or not bad or not 0.0 <= at_most <= 1.0:
        raise InvalidParameter(
            f"calibration needs answerable ({len(good)}) and unanswerable ({len(bad)}) questions, "
            f"and a share from 0 to 1 ({at_most})"
        )
    allowed = math.floor(at_most * len(good))
    below = good[allowed] if allowed < len(good) else math.nextafter(good[-1], math.inf)
    return Bar(
        below=below,
        turned_away=sum(value < below for value in good) / len(good),
        saved=sum(value < below for value in bad) / len(bad),
        trials=len(known),
    )
