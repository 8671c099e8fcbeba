"""C4's rules for web pages: which lines are prose, and whether enough of a page is.

Source: Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 21 (2020), section 2.2,
with the two rules that only its code has (words of more than 1,000 characters, lines about cookies
and terms). Left out is its list of bad words. Sentences are counted by their end marks.
"""

import re
from dataclasses import dataclass

from headrace.data.document import Document
from headrace.data.filters.verdict import KEEP, Verdict, drop

_ENDS = (".", "?", "!", '"', "'", "”", "’")
_ELLIPSES = ("...", "…")
_POLICY = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies",
)  # fmt: skip
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class C4:
    """Judges the page that is left when its other lines are gone; see `prose_lines`."""

    min_sentences: int = 5
    min_words_per_line: int = 3
    max_word_chars: int = 1000
    end_marks: bool = True
    """Whether a line has to end like a sentence; FineWeb took this rule out."""

    def __call__(self, document: Document) -> Verdict:
        text = document.text
        if "lorem ipsum" in text.lower():
            return drop("c4:lorem_ipsum")
        if "{" in text:
            return drop("c4:curly_bracket")
        sentences = sum(
            max(1, len(_SENTENCE.findall(line))) for line in self.prose_lines(document.text)
        )
        return KEEP if sentences >= self.min_sentences else drop("c4:few_sentences")

    def prose_lines(self, text: str) -> list[str]:
        """The lines that C4 keeps of a page, without citation marks."""
        return [line for line in map(self._line, text.splitlines()) if line]

    def _line(self, line: str) -> str:
        words = line.split()
        if len(words) < self.min_words_per_line:
            return ""
        if any(len(word) > self.max_word_chars for word in words):
            return ""
        line = _CITATION.sub("", line).strip()
        if self.end_marks and (not line.endswith(_ENDS) or line.endswith(_ELLIPSES)):
            return ""
        lower = line.lower()
        if "javascript" in lower or any(phrase in lower for phrase in _POLICY):
            return ""
        return line
