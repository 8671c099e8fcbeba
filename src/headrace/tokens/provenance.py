"""Strings that know where each of their characters came from.

A chat template mixes its own text with messages: it trims, splits, upper-cases and joins them. A
`Traced` string goes through all of it and answers, character by character, what was the template's
and what was content. Invariant: a character counts as the template's (`LITERAL`) only where that is
known; an operation that cannot tell yields `UNKNOWN`, and a plain `str` is unknown by definition.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

from headrace.errors import TemplateError
from headrace.types import Integrity, Label, Role

MAX_CHARS = 1 << 25
"""Longest string a template may make; a prompt of 10 MB fits thrice."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Origin:
    """Where characters came from. Compared by identity."""

    literal: bool = False
    """The template's own text, or a name that headrace gave it (a role, `bos_token`)."""
    known: bool = True
    message: int | None = None
    part: int | None = None
    role: Role | None = None
    label: Label | None = None


LITERAL = Origin(literal=True)
UNKNOWN = Origin(known=False)


class Run(NamedTuple):
    """Consecutive characters of one origin."""

    size: int
    origin: Origin


Runs: TypeAlias = tuple[Run, ...]


def runs_of(text: str) -> Runs:
    """The origins of a string's characters, in order."""
    if isinstance(text, Traced):
        return text.runs
    return (Run(len(text), UNKNOWN),) if text else ()


def traced(text: str, origin: Origin) -> "Traced":
    """A string all of whose characters have one origin."""
    return Traced(text, (Run(len(text), origin),) if text else ())


def concat(parts: Iterable[object]) -> "Traced":
    """Join the texts of `parts`.

    Raises:
        TemplateError: The result is longer than `MAX_CHARS`.
    """
    texts = [part if isinstance(part, str) else text_of(part) for part in parts]
    limit_size(sum(map(len, texts)))
    return Traced("".join(texts), _merged(run for text in texts for run in runs_of(text)))


def text_of(value: Any) -> str:
    """`str(value)` that keeps origins and refuses structures whose text would explode."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict | set):
        limit_nodes(value)
    return str(value)


def limit_size(size: int) -> None:
    """Refuse a string or list that is too long."""
    if size > MAX_CHARS:
        raise TemplateError(
            f"the chat template makes a value of {size} characters or items; "
            f"the limit is {MAX_CHARS}"
        )


def limit_nodes(value: Any) -> list[Any]:
    """The leaves and containers of a structure, refused where shared parts make it explode."""
    seen: list[Any] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        seen.append(item)
        if len(seen) > 1_000_000:
            raise TemplateError("the chat template prints a structure of more than 1000000 values")
        if isinstance(item, dict):
            todo.extend(item.keys())
            todo.extend(item.values())
        elif isinstance(item, list | tuple | set):
            todo.extend(item)
    return seen


def mixed(origins: Sequence[Origin]) -> Origin:
    """The origin of text made of all `origins` (JSON of a structure): the least trusted wins."""
    distinct = list({id(origin): origin for origin in origins if origin is not LITERAL}.values())
    if not distinct:
        return LITERAL if origins else UNKNOWN
    if len(distinct) == 1:
        return distinct[0]
    if any(not origin.known for origin in distinct):
        return UNKNOWN
    first = distinct[0]
    same = all(origin.message == first.message for origin in distinct)
    labels = [origin.label for origin in distinct if origin.label is not None]
    return Origin(
        message=first.message if same else None,
        role=first.role if same else None,
        label=joined(labels),
    )


_TRUST = (Integrity.SYSTEM, Integrity.USER, Integrity.MODEL, Integrity.UNTRUSTED)


def joined(labels: Sequence[Label]) -> Label | None:
    """The label of text made of several: lowest integrity, common readers, all origins."""
    if not labels:
        return None
    restricted = [label.readers for label in labels if label.readers is not None]
    return Label(
        integrity=max((label.integrity for label in labels), key=_TRUST.index),
        readers=frozenset.intersection(*restricted) if restricted else None,
        origins=frozenset[str]().union(*(label.origins for label in labels)),
    )


class Traced(str):
    """A `str` in everything but its memory. (A subclass, because templates test `is string`.)"""

    __slots__ = ("runs",)
    runs: Runs

    def __new__(cls, text: str = "", runs: Runs | None = None) -> "Traced":
        self = super().__new__(cls, text)
        self.runs = runs_of(text) if runs is None else runs
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str, /) -> "Traced":
        if not isinstance(other, str):  # pyright: ignore[reportUnnecessaryIsInstance] - templates do
            return NotImplemented
        return concat((self, other))

    def __radd__(self, other: str, /) -> "Traced":
        if not isinstance(other, str):  # pyright: ignore[reportUnnecessaryIsInstance] - templates do
            return NotImplemented
        return concat((other, self))

    def __mul__(self, count: SupportsIndex, /) -> "Traced":
        times = max(0, index(count))
        limit_size(len(self) * times)
        return concat([self] * times)

    def __rmul__(self, count: SupportsIndex, /) -> "Traced":
        return self * count

    def __mod__(self, values: Any, /) -> "Traced":
        limit_nodes(values)
        return Traced(str.__mod__(self, values))

    def __getitem__(self, key: SupportsIndex | slice, /) -> "Traced":
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._cut(start, max(start, stop))
            return concat([self[at] for at in range(start, stop, step)])
        at = index(key)  # a TypeError where it is no number, as of str
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError("string index out of range")
        return self._cut(at, at + 1)

    def __iter__(self) -> Iterator["Traced"]:
        for at in range(len(self)):
            yield self._cut(at, at + 1)

    def strip(self, chars: str | None = None, /) -> "Traced":
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> "Traced":
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> "Traced":
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> "Traced":
        return self._cut(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> "Traced":
        return self._cut(0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        found: list[str] = []
        at = 0
        for line in str.splitlines(self, keepends=True):
            bare = line if keepends else str.splitlines(line)[0]
            found.append(self._cut(at, at + len(bare)))
            at += len(line)
        return found

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        at = self.find(sep)
        return (self, Traced(), Traced()) if at < 0 else self._around(at, len(sep))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        at = self.rfind(sep)
        return (Traced(), Traced(), self) if at < 0 else self._around(at, len(sep))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "Traced":
        limit_size(len(self) + str.count(self, old) * len(new))
        if not old:  # between all characters; nobody does it, so nobody is told whose they are
            return Traced(str.replace(self, old, new, count))
        return Traced(new, runs_of(new)).join(self.split(old, count))

    def join(self, parts: Iterable[str], /) -> "Traced":
        pieces: list[object] = []
        for part in parts:
            if pieces:
                pieces.append(self)
            pieces.append(part)
        return concat(pieces)

    def upper(self) -> "Traced":
        return self._mapped(str.upper(self), str.upper)

    def lower(self) -> "Traced":
        return self._mapped(str.lower(self), str.lower)

    def casefold(self) -> "Traced":
        return self._mapped(str.casefold(self), str.casefold)

    def capitalize(self) -> "Traced":
        return self._derived(str.capitalize(self))

    def title(self) -> "Traced":
        return self._derived(str.title(self))

    def swapcase(self) -> "Traced":
        return self._derived(str.swapcase(self))

    def expandtabs(self, tabsize: SupportsIndex = 8) -> "Traced":
        limit_size(len(self) * max(1, index(tabsize)))
        return self._derived(str.expandtabs(self, tabsize))

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> "Traced":
        limit_size(index(width))
        return Traced(str.ljust(self, width, fillchar))

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> "Traced":
        limit_size(index(width))
        return Traced(str.rjust(self, width, fillchar))

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> "Traced":
        limit_size(index(width))
        return Traced(str.center(self, width, fillchar))

    def zfill(self, width: SupportsIndex, /) -> "Traced":
        limit_size(index(width))
        return Traced(str.zfill(self, width))

    def _cut(self, start: int, stop: int) -> "Traced":
        if start == 0 and stop >= len(self):
            return self
        kept: list[Run] = []
        at = 0
        for run in self.runs:
            size = min(stop, at + run.size) - max(start, at)
            if size > 0:
                kept.append(Run(size, run.origin))
            at += run.size
            if at >= stop:
                break
        return Traced(str.__getitem__(self, slice(start, stop)), tuple(kept))

    def _around(self, at: int, size: int) -> tuple[str, str, str]:
        return self._cut(0, at), self._cut(at, at + size), self._cut(at + size, len(self))

    def _located(self, parts: list[str], sep: str | None) -> list[str]:
        found: list[str] = []
        at = 0
        for part in parts:
            # without a separator only white space lies between parts, and no part begins with it
            at = self.find(part, at) if sep is None else at
            found.append(self._cut(at, at + len(part)))
            at += len(part) + (0 if sep is None else len(sep))
        return found

    def _mapped(self, whole: str, change: Any) -> "Traced":
        """Map case run by run, where that is what mapping the whole is (a final sigma may not)."""
        if len(self.runs) == 1:
            return self._derived(whole)
        pieces: list[Traced] = []
        at = 0
        for run in self.runs:
            pieces.append(
                traced(change(str.__getitem__(self, slice(at, at + run.size))), run.origin)
            )
            at += run.size
        joint = concat(pieces)
        return joint if joint == whole else Traced(whole)

    def _derived(self, text: str) -> "Traced":
        return traced(text, self.runs[0].origin) if len(self.runs) == 1 else Traced(text)


def _merged(runs: Iterable[Run]) -> Runs:
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].origin is run.origin:
            merged[-1] = Run(merged[-1].size + run.size, run.origin)
        else:
            merged.append(run)
    return tuple(merged)
