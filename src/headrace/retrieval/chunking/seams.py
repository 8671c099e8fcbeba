"""Where a text that is too long is cut: after sentences, else lines, words, anywhere at last."""

import re

_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]|\n[ \t]*\n\s*")
_LINE = re.compile(r"\n+")
_WORD = re.compile(r"\s+")


def cut(text: str, start: int, limit: int, *, lines: bool, after: int = 0) -> int:
    """The best place in (start, limit] to end a piece that begins at `start`.

    Args:
        text: The whole.
        start: Where the piece begins.
        limit: As far as it may go.
        lines: Rows and code: cut at the last line that fits, however short the piece becomes.
        after: It has to end later than this.
    """
    if limit >= len(text):
        return len(text)
    half = start + (limit - start) // 2
    for seam, least in (
        (_LINE, start) if lines else (_SENTENCE, half),
        (_LINE, half),
        (_WORD, start),
    ):
        found = _last(seam, text, least, limit)
        if found > max(start, after):
            return found
    return _whole(text, max(start, after), limit)


def resume(text: str, earliest: int, end: int) -> int:
    """Where the next piece may begin so as to repeat the end of this one: a sentence's beginning,
    else a word's, in [earliest, end); `end` = nowhere."""
    for seam in (_SENTENCE, _WORD):
        for found in seam.finditer(text, earliest, end):
            if found.end() < end:
                return found.end()
    return end


def _last(seam: re.Pattern[str], text: str, least: int, limit: int) -> int:
    found = 0
    for match in seam.finditer(text, least, min(limit + 1, len(text))):
        # A seam's blanks go with neither side, so they may lie beyond the limit.
        if match.end() <= limit or text[match.start() : match.end()].isspace():
            found = min(match.end(), limit) if match.start() < limit else found
    return found


def _whole(text: str, start: int, limit: int) -> int:
    """Not between a letter and its marks, where that can be helped."""
    at = limit
    while at > start + 1 and ("\u0300" <= text[at] <= "\u036f" or text[at] in "\u200d\ufe0f"):
        at -= 1
    return at if at > start + 1 else limit
