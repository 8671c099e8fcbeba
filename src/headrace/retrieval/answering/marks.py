"""An answer's text as it streams → the same text, with the citation marks in it found.

| text | is |
|---|---|
| `[1]`, `[1, 2]`, `[1; 2]`, `[1-3]`, `[^1]`, `[S1]`, `[1][3]` | marks |
| `[3:120-188]` | a mark of characters 120 to 188 of source 3 |
| `a[1]` before a bracket, dot or `=`, `list[1]`, `= [1, 2]`, `[1](https://...)` | text |
| anything in a code fence or between back quotes | text |

Invariant: the pieces joined are the text, wherever its parts were cut.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

_LONGEST = 64
"""Characters of a mark; a longer bracket is text."""
_AHEAD = 2
"""Characters behind a bracket that decide what it was."""
_MOST = 20
"""Numbers in one mark."""
_ONE = r"\^?[sS]?\d{1,4}(?::\d{1,9}\s?[-–]\s?\d{1,9}|\s?[-–]\s?\d{1,4})?"
_MARK = re.compile(rf"\[\s?{_ONE}(?:\s?[,;]\s?{_ONE})*\s?\]")
_BEGUN = re.compile(r"\[(?:[\s\d,;:\-–^sS]*)")
_PART = re.compile(
    r"(?P<number>\d+)(?::(?P<start>\d+)\s?[-–]\s?(?P<end>\d+)|\s?[-–]\s?(?P<last>\d+))?"
)
_NOT_BEFORE = re.compile(
    r"(?:[=\[{+*/<>&|%@$\\]|\b(?:lists?|arrays?|vectors?|tuples?|returns?|index|indices|range|sets?))"
    r"\s*$",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"[\w.]+$")
_CODE_WORD = re.compile(r"_|^[a-zA-Z]$|\w\.\w|[a-z][A-Z]|^[a-z]+\d+$")


class Reference(NamedTuple):
    """One source that a mark names."""

    source: int
    start: int | None = None
    end: int | None = None
    """Characters of the source's text, where the mark says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A piece of text that cites."""

    text: str
    references: tuple[Reference, ...]


class MarkReader:
    """`push` an answer's text, then `flush`; both return texts and marks in order."""

    def __init__(self) -> None:
        self._before = ""
        """The end of what was returned."""
        self._held = ""
        self._fenced = False
        self._quoted = 0
        """Back quotes that opened code in this line."""

    def push(self, text: str) -> list[str | Mark]:
        """Read on."""
        self._held += text
        return self._read(ended=False)

    def flush(self) -> list[str | Mark]:
        """The text has ended."""
        return self._read(ended=True)

    def _read(self, *, ended: bool) -> list[str | Mark]:
        found: list[str | Mark] = []
        while self._held:
            size, mark = self._next(ended=ended)
            if not size:
                break
            piece, self._held = self._held[:size], self._held[size:]
            found.append(piece if mark is None else mark)
            self._before = (self._before + piece)[-64:]
        return _joined(found)

    def _next(self, *, ended: bool) -> tuple[int, Mark | None]:
        """How much of what is held can be told now, and as which mark; 0 = none of it yet."""
        held = self._held
        first = held[0]
        if first == "`":
            return self._ticks(ended=ended), None
        if first == "\n":
            self._quoted = 0
            return 1, None
        if first != "[" or self._fenced or self._quoted:
            stops = [at for at in map(held.find, "[`\n") if at > 0]
            return min(stops, default=len(held)), None
        mark = _MARK.match(held)
        if mark is None:
            begun = _BEGUN.match(held)
            open_still = begun is not None and begun.end() == len(held) < _LONGEST
            return (0 if open_still and not ended else 1), None
        if len(held) < mark.end() + _AHEAD and not ended:
            return 0, None
        if mark.end() > _LONGEST or not self._cites(mark[0], held[mark.end() :]):
            return mark.end(), None
        references = _references(mark[0])
        return mark.end(), Mark(text=mark[0], references=references) if references else None

    def _ticks(self, *, ended: bool) -> int:
        """Back quotes, all that stand here together."""
        count = len(self._held) - len(self._held.lstrip("`"))
        if count == len(self._held) and not ended:
            return 0
        line = self._before.rpartition("\n")[2]
        if count >= 3 and not line.strip(" >"):
            self._fenced = not self._fenced
        elif not self._fenced:
            self._quoted = 0 if self._quoted == count else self._quoted or count
        return count

    def _cites(self, text: str, after: str) -> bool:
        if after.startswith(("(", "[(")):
            return False  # a link
        before = self._before
        if before.endswith("]") and text.count(",") == 0:
            before = re.sub(r"(?:\[[^\[\]]*\])+$", "", before)  # [1][3] stands where [1] does
        if _NOT_BEFORE.search(before):
            return False
        word = _IDENTIFIER.search(before)
        if word is None or word.end() != len(before) or before.endswith("."):
            return True
        code = _CODE_WORD.search(word[0]) is not None
        return not (code or re.match(r"\s?=|\.\w|\(", after))


def _references(text: str) -> tuple[Reference, ...]:
    found: list[Reference] = []
    for part in _PART.finditer(text):
        number = int(part["number"])
        if part["start"] is not None:
            found.append(Reference(number, int(part["start"]), int(part["end"])))
        elif part["last"] is not None and number < int(part["last"]) <= number + _MOST:
            found += (Reference(at) for at in range(number, int(part["last"]) + 1))
        else:
            found.append(Reference(number))
    return tuple(dict.fromkeys(found))[:_MOST]


def _joined(pieces: list[str | Mark]) -> list[str | Mark]:
    joined: list[str | Mark] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
