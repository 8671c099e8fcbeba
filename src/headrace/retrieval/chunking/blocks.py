"""Text → blocks: headings, paragraphs, list items, tables, fenced code, each with its titles.

Invariant: blocks are in order, do not overlap, and have every character that is not blank.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t#]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,4}[.)])[ \t]+\S")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_RULER = re.compile(r"\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)*\|?[ \t]*$")
_UNDERLINE = re.compile(r"(=+|-+)[ \t]*$")
_LONGEST_TITLE = 200


class Kind(Enum):
    HEADING = auto()
    PARAGRAPH = auto()
    ITEM = auto()
    TABLE = auto()
    FENCE = auto()
    CODE = auto()  # of a source file


@dataclass(frozen=True, slots=True)
class Block:
    start: int
    end: int
    kind: Kind
    headings: tuple[str, ...] = ()
    """What stands above it, outermost first; of a heading not itself."""
    level: int = 0
    """Of a heading: 1 is outermost. Of others: of the heading they are under."""
    header: str = ""
    """Of a table: its first row, where a ruler is under it."""


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int
    text: str


def blocks(text: str) -> list[Block]:
    """The blocks of a text with Markdown's marks, or without any."""
    return list(_Reader(text).read())


class _Reader:
    def __init__(self, text: str) -> None:
        self._lines = list(_lines(text))
        self._above: list[tuple[int, str]] = []
        self._at = 0

    def read(self) -> Iterator[Block]:
        lines = self._lines
        while self._at < len(lines):
            line = lines[self._at]
            if not line.text or line.text.isspace():
                self._at += 1
                continue
            first = line.text[0]
            if first == "#" and (found := _HEADING.match(line.text)):
                yield self._heading(line, line.end, len(found.group(1)), found.group(2))
                self._at += 1
            elif first in "`~ \t" and (found := _FENCE.match(line.text)):
                yield self._take(Kind.FENCE, self._fence_end(found.group(1)))
            elif line.text.lstrip().startswith("|"):
                yield self._table()
            elif _ITEM.match(line.text):
                yield self._take(Kind.ITEM, self._run(self._at + 1))
            else:
                yield self._paragraph(line)

    def _paragraph(self, line: _Line) -> Block:
        end = self._run(self._at + 1)
        below = self._lines[self._at + 1].text if self._at + 1 < len(self._lines) else ""
        if (
            below
            and end > self._at + 1
            and len(line.text) <= _LONGEST_TITLE
            and (found := _UNDERLINE.match(below))
            and len(found.group(1)) >= 3
        ):
            level = 1 if below[0] == "=" else 2
            self._at += 2
            return self._heading(line, self._lines[self._at - 1].end, level, line.text)
        return self._take(Kind.PARAGRAPH, end)

    def _heading(self, line: _Line, end: int, level: int, title: str) -> Block:
        while self._above and self._above[-1][0] >= level:
            self._above.pop()
        above = tuple(title for _, title in self._above)
        self._above.append((level, " ".join(title.split())[:_LONGEST_TITLE]))
        return Block(line.start, end, Kind.HEADING, above, level)

    def _table(self) -> Block:
        first, end = self._at, self._at
        while end < len(self._lines) and self._lines[end].text.lstrip().startswith("|"):
            end += 1
        ruled = first + 1 < end and _RULER.match(self._lines[first + 1].text.strip())
        header = self._lines[first].text.strip() if ruled else ""
        return self._take(Kind.TABLE, end, header=header)

    def _fence_end(self, mark: str) -> int:
        for at in range(self._at + 1, len(self._lines)):
            closing = self._lines[at].text.strip()
            if closing.startswith(mark) and not closing.strip(mark[0]):
                return at + 1
        return len(self._lines)

    def _run(self, at: int) -> int:
        """The end of the lines that go on with what began before `at`."""
        while at < len(self._lines):
            text = self._lines[at].text
            if not text or text.isspace() or _ITEM.match(text) or text.lstrip()[0] == "|":
                break
            if (text[0] == "#" and _HEADING.match(text)) or _FENCE.match(text):
                break
            at += 1
        return at

    def _take(self, kind: Kind, end: int, *, header: str = "") -> Block:
        start = self._lines[self._at].start
        self._at = end
        level = self._above[-1][0] if self._above else 0
        above = tuple(title for _, title in self._above)
        return Block(start, self._lines[end - 1].end, kind, above, level, header)


def _lines(text: str) -> Iterator[_Line]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield _Line(start, end, text[start:end])
        start = end + 1
