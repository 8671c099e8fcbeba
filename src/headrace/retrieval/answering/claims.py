"""An answer as it streams → which of its words each citation mark is about.

A mark is about the sentence before it, or of one with several marks, what follows the mark before.
Marks that stand together are about the same. A mark that begins a sentence, or stands behind
`According to`, is about what comes after it, and is told when that has ended. Invariant: the same
text gives the same claims, wherever its parts were cut.
"""

import re
from dataclasses import dataclass

from headrace.retrieval.answering.marks import Mark, MarkReader, Reference
from headrace.retrieval.sentences import sentence_spans

_BACK = 2000
"""Characters that a claim may reach back."""
_LEADS = re.compile(
    r"^\W*(?:(?:according to|as per|per|see|from|in|as|sources?|document|passage|text|both|and|the|"
    r"stated by|says|said|reported in|noted in|\d+[.)])\W*)*$",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"^[\s,;.!?)\"”'*_]*(?:and\s+)?$", re.IGNORECASE)
_EDGES = " \t\r\n,;:–—-*•#>|"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cited:
    """A mark and its claim, in characters of all the answer's text."""

    text: str
    """What is claimed, without marks."""
    references: tuple[Reference, ...]
    claim_start: int
    claim_end: int
    mark_start: int
    mark_end: int


@dataclass(slots=True)
class _Waiting:
    """A mark whose claim has not been written yet."""

    mark: Mark
    start: int
    end: int


class ClaimReader:
    """`push` an answer's text, then `flush`; both return what became known of its marks."""

    def __init__(self) -> None:
        self.text = ""
        """All of it that was told, marks included."""
        self._marks = MarkReader()
        self._spans: list[tuple[int, int]] = []
        """Of all marks so far."""
        self._last: Cited | None = None
        self._waiting: list[_Waiting] = []

    def push(self, text: str) -> list[Cited]:
        """Read on."""
        return self._read(self._marks.push(text), ended=False)

    def flush(self) -> list[Cited]:
        """The answer has ended."""
        return self._read(self._marks.flush(), ended=True)

    @property
    def open_since(self) -> int:
        """Where the sentence begins that may still get a mark or a claim."""
        spans = sentence_spans(self.text[self._window() :])
        base = self._window()
        while spans:
            start, end = base + spans[-1][0], base + spans[-1][1]
            if self._plain(start, end).strip(_EDGES + ".!?"):
                return start
            spans.pop()
        return base

    def _window(self) -> int:
        return max(0, len(self.text) - _BACK)

    def _read(self, pieces: list[str | Mark], *, ended: bool) -> list[Cited]:
        found: list[Cited] = []
        for piece in pieces:
            if isinstance(piece, str):
                self.text += piece
                found += self._caught_up(ended=False)
            else:
                found += self._mark(piece)
        return found + self._caught_up(ended=True) if ended else found

    def _mark(self, mark: Mark) -> list[Cited]:
        found = self._caught_up(ended=True, at_mark=True)
        start = len(self.text)
        self.text += mark.text
        end = len(self.text)
        before = self._spans[-1][1] if self._spans else 0
        beside = bool(self._spans) and _BETWEEN.match(self.text[before:start]) is not None
        self._spans.append((start, end))
        if beside and self._waiting:
            self._waiting.append(_Waiting(mark, start, end))
            return found
        if beside and self._last is not None:
            last = self._last
            return [*found, self._cited(mark, last.claim_start, last.claim_end, start, end)]
        claim = self._before(start)
        if claim is None:
            self._waiting.append(_Waiting(mark, start, end))
            return found
        return [*found, self._cited(mark, *claim, start, end)]

    def _before(self, mark: int) -> tuple[int, int] | None:
        """The claim that ends at a mark; None where nothing is claimed there."""
        base = max(0, mark - _BACK)
        spans = sentence_spans(self.text[base:mark])
        if not spans:
            return None
        start = base + spans[-1][0]
        marks = [end for begun, end in self._spans[:-1] if begun >= start]
        start = max([start, *marks])
        if marks and not re.search(r"\w", self.text[start:mark]):
            return None
        start, end = self._trimmed(start, mark)
        return None if _LEADS.match(self._plain(start, end)) else (start, end)

    def _caught_up(self, *, ended: bool, at_mark: bool = False) -> list[Cited]:
        """Marks whose claim stands behind them and is now whole."""
        if not self._waiting:
            return []
        after = self._waiting[-1].end
        rest = self.text[after:]
        if at_mark and _BETWEEN.match(rest):
            return []
        spans = sentence_spans(rest)
        if ended and not at_mark and not spans:
            spans = [(0, 0)]  # there is no claim
        if not spans or not (ended or len(spans) > 1):
            return []
        first = spans[0] if re.search(r"\w", rest[: spans[0][1]]) else spans[-1]
        start, end = self._trimmed(after + first[0], after + first[1])
        waiting, self._waiting = self._waiting, []
        return [self._cited(item.mark, start, end, item.start, item.end) for item in waiting]

    def _cited(self, mark: Mark, start: int, end: int, mark_start: int, mark_end: int) -> Cited:
        made = Cited(
            text=self._plain(start, end).strip(),
            references=mark.references,
            claim_start=start,
            claim_end=end,
            mark_start=mark_start,
            mark_end=mark_end,
        )
        self._last = made
        return made

    def _plain(self, start: int, end: int) -> str:
        """Text without the marks in it."""
        pieces: list[str] = []
        for begun, ended in self._spans:
            if start <= begun and ended <= end:
                pieces.append(self.text[start:begun])
                start = ended
        return "".join([*pieces, self.text[start:end]])

    def _trimmed(self, start: int, end: int) -> tuple[int, int]:
        piece = self.text[start:end]
        left = len(piece) - len(piece.lstrip(_EDGES))
        right = len(piece.rstrip(" \t\r\n([,;:"))
        return start + left, start + max(left, right)
