"""What an answer cites → what is true of each citation, by the sources that it was made from.

A claim may need several of its sources together: then those are supported that it cannot do
without. A claim whose source does not support it, while another does, is misplaced. What stands on
the edge may be put before a judge; what is contradicted never is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from headrace.retrieval.answering.bars import Bars, Finding
from headrace.retrieval.answering.checking import Checker, Claim, names_of, stems_of
from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.packing.sources import Source
from headrace.types import CitationVerdict

_CLAUSES = re.compile(r"[,;]?\s+(?:and|while|but|whereas)\s+|;\s+", re.IGNORECASE)
_EDGE = 0.25
"""A claim of at least so much support may be put before a judge."""
_SURE = 0.8
"""Nobody is asked about a claim of at least so much."""
_JUDGED = 0.5
_PART = 0.25
"""Support that a source must give to a claim that it carries with others."""


class Judge(Protocol):
    """Whoever can say whether a text entails a claim: a model for it, or a chat model asked."""

    async def entails(self, claim: str, text: str) -> float | None:
        """How likely, 0 to 1; None = it cannot say, which decides nothing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One reference of one mark, looked up."""

    reference: Reference
    source: Source | None
    """None = there is none of that number."""
    verdict: CitationVerdict
    support: float
    start: int = 0
    end: int = 0
    """In characters of the document."""
    reason: str = ""
    hard: bool = False
    """As `Finding.hard`."""

    @property
    def good(self) -> bool:
        return self.verdict is CitationVerdict.SUPPORTED

    @property
    def quote(self) -> str:
        """The document's words from `start` to `end`."""
        if self.source is None:
            return ""
        return self.source.text[self.start - self.source.start : self.end - self.source.start]


class Verifier:
    """Holds the claims of one answer to its sources."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        question: str = "",
        bars: Bars | None = None,
        judge: Judge | None = None,
    ) -> None:
        """
        Args:
            sources: As they were numbered.
            question: What was asked: a short answer says only the rest of it.
            bars: Where support ends.
            judge: Asked about what is neither plainly supported nor contradicted.
        """
        self._sources = {source.number: source for source in sources}
        self._question = question
        self._checker = Checker(bars)
        self._bars = self._checker.bars
        self._judge = judge
        texts = [source.text for source in sources]
        self._names, self._words = names_of(texts), stems_of(texts)

    async def verify(self, claim: str, references: Sequence[Reference]) -> list[Checked]:
        """Each reference of one claim, in order."""
        found = [self._alone(claim, reference) for reference in references]
        if self._judge is not None:
            found = [await self._judged(claim, item, self._judge) for item in found]
        if not all(item.good for item in found) and sum(i.source is not None for i in found) > 1:
            found = self._together(claim, found)
        cited = {reference.source for reference in references}
        return [self._elsewhere(claim, item, cited) for item in found]

    def _alone(self, claim: str, reference: Reference) -> Checked:
        source = self._sources.get(reference.source)
        if source is None:
            count = len(self._sources)
            return Checked(
                reference=reference,
                source=None,
                verdict=CitationVerdict.INVENTED,
                support=0.0,
                reason=f"there is no source {reference.source}; there are {count}",
            )
        start, end = _slice(reference, source)
        if start >= end:
            return Checked(
                reference=reference,
                source=source,
                verdict=CitationVerdict.INVENTED,
                support=0.0,
                start=source.start,
                end=source.start,
                reason=f"source {source.number} has {len(source.text)} characters",
            )
        found = self._check(claim, source, source.text[start:end])
        return self._placed(reference, source, found, offset=start)

    def _check(self, claim: str, source: Source, text: str) -> Finding:
        about = " ".join((source.title, *source.headings))
        return self._checker.check(self._claim(claim, about), text)

    def _claim(self, text: str, about: str) -> Claim:
        return Claim(
            text=text,
            title=about,
            question=self._question,
            names=self._names,
            words=self._words,
        )

    def _placed(
        self, reference: Reference, source: Source, found: Finding, *, offset: int
    ) -> Checked:
        base = source.start + offset
        return Checked(
            reference=reference,
            source=source,
            verdict=found.verdict,
            support=found.support,
            start=base + found.start,
            end=base + found.end,
            reason=found.reason,
            hard=found.hard,
        )

    async def _judged(self, claim: str, item: Checked, judge: Judge) -> Checked:
        doubtful = item.verdict in (CitationVerdict.SUPPORTED, CitationVerdict.UNSUPPORTED)
        if item.source is None or item.hard or not doubtful or not _EDGE <= item.support < _SURE:
            return item
        start, end = _slice(item.reference, item.source)
        likely = await judge.entails(claim, item.source.text[start:end])
        if likely is None:
            return item
        if likely >= _JUDGED:
            return replace(item, verdict=CitationVerdict.SUPPORTED, support=likely, reason="")
        return replace(
            item,
            verdict=CitationVerdict.UNSUPPORTED,
            support=min(likely, item.support),
            reason=f"the judge gives it {likely:.2f}",
        )

    def _together(self, claim: str, found: list[Checked]) -> list[Checked]:
        """What several sources carry that none of them does alone."""
        there = [item for item in found if item.source is not None]
        needed = self._by_clauses(claim, there)
        if not needed:
            whole = self._joined(claim, there)
            needed = {
                item.reference: whole.support
                for item in there
                if whole.good
                and item.support >= _PART
                and not self._joined(claim, [other for other in there if other is not item]).good
            }
        return [
            replace(
                item,
                verdict=CitationVerdict.SUPPORTED,
                support=max(item.support, needed[item.reference]),
                reason="",
            )
            if item.reference in needed
            else item
            for item in found
        ]

    def _by_clauses(self, claim: str, there: Sequence[Checked]) -> dict[Reference, float]:
        """Which carry a clause each, where all clauses are carried; nothing where one is not."""
        clauses = [part for part in _CLAUSES.split(claim) if len(part.split()) > 2]
        needed: dict[Reference, float] = {}
        for clause in clauses if len(clauses) > 1 else ():
            tried = {item.reference: self._joined(clause, [item]) for item in there}
            good = {reference: found.support for reference, found in tried.items() if found.good}
            if not good:
                return {}
            best = max(good, key=lambda reference: good[reference])
            needed[best] = min(good[best], needed.get(best, 1.0))
        return needed

    def _joined(self, claim: str, items: Sequence[Checked]) -> Finding:
        texts: list[str] = []
        titles: list[str] = []
        for item in items:
            if item.source is not None:
                start, end = _slice(item.reference, item.source)
                texts.append(item.source.text[start:end])
                titles += [item.source.title, *item.source.headings]
        return self._checker.check(self._claim(claim, " ".join(titles)), "\n\n".join(texts))

    def _elsewhere(self, claim: str, item: Checked, cited: set[int]) -> Checked:
        """Misplaced, where another source says it, and this one does not or only half."""
        unsaid = item.verdict in (CitationVerdict.UNSUPPORTED, CitationVerdict.MISQUOTED)
        if item.source is None or not (unsaid or (item.good and item.support < _SURE)):
            return item
        for number, source in self._sources.items():
            if number in cited:
                continue
            found = self._check(claim, source, source.text)
            if found.good and found.support > item.support + self._bars.elsewhere:
                return replace(
                    item,
                    verdict=CitationVerdict.MISPLACED,
                    support=min(item.support, 1.0 - found.support),
                    reason=f"source {number} says it, and {item.source.number} does not",
                )
        return item


def _slice(reference: Reference, source: Source) -> tuple[int, int]:
    """What of a source's text a reference names."""
    if reference.start is None or reference.end is None:
        return 0, len(source.text)
    return reference.start, min(reference.end, len(source.text))
