"""Where sentences begin and end, in prose, lists and answers.

Spans tile the text but for white space. A full stop after an abbreviation, an initial or within a
number ends nothing; a line that is empty, a list item or a heading ends what was before.
"""

import re

_END = re.compile(
    r"(?P<stop>[.!?…]+[\"'”’»)\]]*)(?=\s|$)"  # a stop with what closes behind it
    r"|(?P<wide>[。！？]+[」』”]*)"
    r"|(?P<line>\n\s*\n|\n(?=[ \t]*[-*•+][ \t])|\n(?=[ \t]*\#)"  # a paragraph, an item, a heading
    r"|(?<=[.:;!?])\n(?=[ \t]*\d{1,3}[.)][ \t]))"
)
_SHORT = """
    dr mr mrs ms prof sr jr st vs etc e.g i.e eg ie cf al fig figs no nos vol vols pp ed eds inc ltd
    co corp dept est approx ca c gen col lt sgt capt rev hon pres gov sen rep mt ft jan feb mar apr
    jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun u.s u.k u.n e.u d.c a.m p.m ph.d
    b.c a.d m.d b.a m.a
"""
_ABBREVIATIONS = frozenset(_SHORT.split())
_BEGINNINGS = frozenset(
    {"The", "In", "It", "He", "She", "They", "A", "An", "This", "These", "On", "At", "But", "And"}
    | {"By", "As", "For", "However", "After", "When", "If", "We", "There", "His", "Their", "Since"}
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, white space at its ends left out."""
    spans: list[tuple[int, int]] = []
    start = 0
    for found in _END.finditer(text):
        if found["stop"] is not None and not _ends(text, found):
            continue
        end = found.start() if found["line"] is not None else found.end()
        _add(spans, text, start, end)
        start = found.end()
    _add(spans, text, start, len(text))
    return spans


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends where the text ends."""
    spans = list(_END.finditer(text.rstrip()))
    if not spans or spans[-1].end() != len(text.rstrip()):
        return text.endswith("\n")
    return spans[-1]["stop"] is None or _ends(text.rstrip(), spans[-1])


def _ends(text: str, found: "re.Match[str]") -> bool:
    if found["stop"][0] != ".":
        return True
    before = _LAST_WORD.search(text, max(0, found.start() - 40), found.start())
    word = before[0].lower() if before else ""
    after = text[found.end() : found.end() + 60].lstrip()
    if after.startswith(".") or text[found.start() - 1 : found.start()] in (" ", "\n"):
        return False  # . . .
    if not after:
        return True
    if len(word) == 1 and word.isalpha() and text[found.start() - 1].isupper():
        return False  # an initial
    if word in _ABBREVIATIONS:
        # A title or a month goes on; U.S. and etc. may end one where a usual beginning follows.
        begins = re.split(r"\W", after, maxsplit=1)[0] in _BEGINNINGS
        return word in ("etc", "u.s", "u.k", "a.m", "p.m") and begins
    return not after[0].islower()


def _add(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    right = len(piece.rstrip())
    if left < right:
        spans.append((start + left, start + right))
