"""A claim beside a source, item by item: what of it the source has, where, and in whose place.

A claim is held to the sentences of the source that cover it best. A name or number of it may stand
anywhere in the source, but where those sentences have another in its place, with the same words
around it, the claim is contradicted: that is what a swapped date looks like.
"""

from headrace.retrieval.answering.aligning import Aligning
from headrace.retrieval.answering.bars import Bars, Finding
from headrace.retrieval.answering.denying import Denying
from headrace.retrieval.answering.locating import Located, union, weight
from headrace.retrieval.answering.placing import Placing
from headrace.retrieval.answering.reading import Reading
from headrace.types import CitationVerdict

_ALL_OF_IT = 0.7
"""Share of a short answer that must be there."""
_ECHO = 0.1
"""A claim that repeats its question has words that no source has."""


class Comparison:
    """Of one claim with one source."""

    def __init__(
        self,
        bars: Bars,
        mine: Reading,
        source: Reading,
        about: Reading,
        *,
        asked: int = 0,
        echoed: int = 0,
        known: frozenset[str] = frozenset(),
        spoken: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            bars: Where support ends.
            mine: The claim; where it is a short answer, behind its question.
            source: What it is held to.
            about: What is known of the source beside its text.
            asked: Characters of the question in the claim. It says what the answer is of, and is
                not claimed.
            echoed: Characters of a question that the claim itself repeats. Its answer stands behind
                it, and not in its place in the sentence.
            known: Stems of words that are names in this or another source.
            spoken: Stems of all words of the sources.
        """
        self._bars = bars
        self._on = Located(
            mine, source, about, asked=asked, echoed=echoed, known=known, spoken=spoken
        )

    def finding(self) -> Finding:
        """The first that fails, or how well it is supported."""
        placing, denying = Placing(self._on, self._bars), Denying(self._on)
        for decide in (
            placing.missing,
            placing.displaced,
            denying.denied,
            Aligning(self._on).replaced,
            self._beside_the_question,
        ):
            reason = decide()
            if reason:
                verdict = CitationVerdict.CONTRADICTED
                if self._on.window.covered < self._bars.covered:
                    verdict = CitationVerdict.UNSUPPORTED
                return self._found(verdict, min(self._on.window.covered, 0.3), reason, hard=True)
        covered = self._on.window.covered
        if (self._on.asked or self._on.echoed) and not self._answered():
            covered = 0.0
        if covered < self._bars.covered - (_ECHO if self._on.echoed else 0.0):
            share = f"{covered:.0%} of the claim's words stand together in it"
            return self._found(CitationVerdict.UNSUPPORTED, covered, share)
        return self._found(CitationVerdict.SUPPORTED, covered, "")

    def _beside_the_question(self) -> str:
        """Where a short answer stands, the source must speak of what was asked."""
        split = self._on.asked or self._on.echoed
        if not split or len(self._on.scores) < 2:
            return ""
        asked = [
            at for at, item in enumerate(self._on.mine.row) if item.start < split and weight(item)
        ]
        answer = [
            at for at, item in enumerate(self._on.mine.row) if item.start >= split and weight(item)
        ]
        total = sum(weight(self._on.mine.row[at]) for at in asked)
        if not total or not answer:
            return ""
        spoken = [
            sum(weight(self._on.mine.row[at]) * row[at] for at in asked) / total
            for row in self._on.scores
        ]
        found = [sum(row[at] for at in answer) / len(answer) for row in self._on.scores]
        here = max(s for s, got in zip(spoken, found, strict=True) if got >= max(found) - 1e-9)
        if max(spoken) > here + self._bars.beside:
            return "it stands where the source speaks of something else than what was asked"
        return ""

    def _answered(self) -> bool:
        """Whether a short answer is there whole; its question only helps to find where."""
        reached = [0.0] * len(self._on.mine.row)
        for at in range(self._on.window.first, self._on.window.last + 1):
            reached = union(reached, self._on.scores[at])
        total = got = 0.0
        for item, score in zip(self._on.mine.row, reached, strict=True):
            if item.start >= max(self._on.asked, self._on.echoed):
                total += weight(item)
                got += weight(item) * score
        return got >= _ALL_OF_IT * total

    def _found(
        self, verdict: CitationVerdict, support: float, reason: str, *, hard: bool = False
    ) -> Finding:
        sentences = self._on.source.sentences
        start = sentences[self._on.window.first][0] if sentences else 0
        end = sentences[self._on.window.last][1] if sentences else 0
        return Finding(
            verdict=verdict, support=support, start=start, end=end, reason=reason, hard=hard
        )
