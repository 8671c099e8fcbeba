"""FineWeb's rules, added to C4's and Gopher's: lists, menus and repeated lines are no prose.

Source: Penedo et al., "The FineWeb Datasets", arXiv 2406.17557, section 3.6; the rule on new lines
is in its code alone. Its code has 0.01 where the paper has 0.1 for repeated characters; this is the
paper's.
"""

from dataclasses import dataclass

from headrace.data.document import Document
from headrace.data.filters.gopher import duplicated
from headrace.data.filters.verdict import KEEP, Verdict, drop

_ENDS = (".", "'", '"', "!", "?", "。", "！", "？", "”", "’")


@dataclass(frozen=True, kw_only=True, slots=True)
class FineWeb:
    """Judges a page by its lines."""

    min_punctuated_lines: float = 0.12
    """At most so many lines that end with a mark: not prose."""
    short_line_chars: int = 30
    max_short_lines: float = 0.67
    max_duplicate_line_chars: float = 0.1
    max_newlines_per_word: float = 0.3

    def __call__(self, document: Document) -> Verdict:
        lines = [line for line in document.text.splitlines() if line.strip()]
        words = len(document.text.split())
        if not words:
            return drop("fineweb:empty")
        punctuated = sum(line.rstrip().endswith(_ENDS) for line in lines)
        if punctuated <= self.min_punctuated_lines * len(lines):
            return drop("fineweb:few_punctuated_lines")
        short = sum(len(line) <= self.short_line_chars for line in lines)
        if short >= self.max_short_lines * len(lines):
            return drop("fineweb:short_lines")
        _, chars = duplicated(lines)
        if chars and chars >= self.max_duplicate_line_chars * sum(map(len, lines)):
            return drop("fineweb:duplicate_line_chars")
        if document.text.count("\n") > self.max_newlines_per_word * words:
            return drop("fineweb:newlines")
        return KEEP
