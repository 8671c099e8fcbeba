"""Documents → chunks: blocks joined up to a size in tokens, cut only where one is too large itself.

Invariants: `document.text[chunk.start:chunk.end] == chunk.text`; every character that is not blank
is in a chunk; neither `text` nor `embedded` has more tokens than `max_tokens`; chunks and their
ends are in the order of the text.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from headrace.errors import ConfigError
from headrace.retrieval.chunking import seams
from headrace.retrieval.chunking.blocks import Block, Kind, blocks
from headrace.retrieval.chunking.code import code_blocks
from headrace.retrieval.parsing.sniff import CODE
from headrace.tokens import Tokenizer
from headrace.types import Chunk, SourceDocument

Offsets = Callable[[str], Sequence[int]]
"""Text → the character at which each of its tokens begins, ascending."""

_CODE = frozenset(CODE.values())
_REVISION = 1
"""Counted up when the same settings would cut otherwise."""
_LEAST = 16
_EDGE = 8
"""Tokens by which a whole may differ from its parts; beyond, the whole need not be counted."""
_GROUP = 2000
_FLOWING = (Kind.PARAGRAPH, Kind.ITEM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunking:
    """How documents are cut. Sizes are tokens."""

    max_tokens: int = 250
    """Of a chunk with its headings; MiniLM reads 256, its marks counted."""
    overlap_tokens: int = 32
    """Repeated from the piece before where a text flows on; tables and code repeat nothing."""
    min_tokens: int = 48
    """A section smaller than that is joined with the next of its rank or below."""
    parent_tokens: int = 1000
    """About the size of what may be shown in a chunk's stead; 0 = chunks have no parent."""

    def check(self) -> None:
        """Raises: ConfigError."""
        if self.max_tokens < _LEAST:
            raise ConfigError(
                f"max_tokens = {self.max_tokens} is too small for a chunk; at least {_LEAST}"
            )
        for name in ("overlap_tokens", "min_tokens"):
            value = getattr(self, name)
            if not 0 <= value <= self.max_tokens // 2:
                raise ConfigError(
                    f"{name} = {value} is not between 0 and half of max_tokens = {self.max_tokens}"
                )
        if self.parent_tokens and self.parent_tokens < self.max_tokens:
            raise ConfigError(
                f"parent_tokens = {self.parent_tokens} is less than max_tokens = "
                f"{self.max_tokens}; raise it, or 0 for no parents"
            )


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    headings: tuple[str, ...]


class Chunker:
    """Cuts documents one way. Threads may share it where they may share its tokenizer."""

    def __init__(self, chunking: Chunking, offsets: Offsets, *, tokenizer: str) -> None:
        """Take the settings and a tokenizer with what tells it from others (a fingerprint).

        Raises: ConfigError.
        """
        chunking.check()
        self.chunking = chunking
        self._offsets = offsets
        said = f"{_REVISION}:{tokenizer}:{chunking}"
        self.digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        """Equal digests cut alike."""
        self._title_tokens = lru_cache(maxsize=4096)(lambda title: len(offsets(title)) + 1)

    def chunks(self, document: SourceDocument) -> tuple[Chunk, ...]:
        """All chunks of a document, in order; none where it is blank."""
        text = document.text
        cutter = _Cutter(text, self._located(text), self)
        spans = list(cutter.spans(document.media_type))
        found: list[Chunk] = []
        for span in spans:
            for chunk in self._exact(document, span):
                if not found or chunk.end > found[-1].end:
                    found.append(replace(chunk, ordinal=len(found)))
        return tuple(self._with_parents(found, cutter))

    def room(self, headings: tuple[str, ...]) -> int:
        """Tokens that headings leave for a text."""
        return self.chunking.max_tokens - sum(self._title_tokens(title) for title in headings)

    def kept(self, headings: tuple[str, ...]) -> tuple[str, ...]:
        """The innermost headings that leave two thirds of a chunk to its text."""
        while headings and self.room(headings) * 3 < self.chunking.max_tokens * 2:
            headings = headings[1:]
        return headings

    def _located(self, text: str) -> Sequence[int]:
        """Where tokens begin, nearly: tokenizers are slow on long texts, so lines are read in
        groups. Whatever it says is counted again exactly."""
        found: list[int] = []
        start = 0
        while start < len(text):
            end = text.find("\n", start + _GROUP)
            end = len(text) if end < 0 else end + 1
            found += [start + at for at in self._offsets(text[start:end])]
            start = end
        return found

    def _exact(self, document: SourceDocument, span: _Span) -> Iterator[Chunk]:
        """The span as a chunk; as more of them where its whole counts more than its parts did."""
        waiting = [span]
        while waiting:
            span = waiting.pop()
            start, end = _trimmed(document.text, span.start, span.end)
            if start == end:
                continue
            text = document.text[start:end]
            tokens = len(self._offsets(text))
            chunk = Chunk(
                document=document.id,
                ordinal=0,
                start=start,
                end=end,
                text=text,
                headings=span.headings,
                tokens=tokens,
            )
            if self._small(chunk) or end - start == 1:
                yield chunk
                continue
            middle = seams.cut(document.text, start, start + (end - start + 1) // 2, lines=False)
            waiting += [_Span(middle, end, span.headings), _Span(start, middle, span.headings)]

    def _small(self, chunk: Chunk) -> bool:
        most = self.chunking.max_tokens
        if chunk.tokens > most:
            return False
        if not chunk.headings:
            return True
        if chunk.tokens + _EDGE <= self.room(chunk.headings):
            return True
        return len(self._offsets(chunk.embedded)) <= most

    def _with_parents(self, chunks: list[Chunk], cutter: "_Cutter") -> Iterator[Chunk]:
        most = self.chunking.parent_tokens
        group: list[Chunk] = []
        for chunk in chunks:
            section = chunk.headings[:2]
            if group and (
                cutter.tokens(group[0].start, chunk.end) > most or section != group[0].headings[:2]
            ):
                yield from _parented(group, most)
                group = []
            group.append(chunk)
        yield from _parented(group, most)


class _Cutter:
    """One document: its blocks joined and cut by the tokens of its whole text."""

    def __init__(self, text: str, offsets: Sequence[int], chunker: Chunker) -> None:
        self._text = text
        self._starts = offsets
        self._chunker = chunker
        self._chunking = chunker.chunking

    def tokens(self, start: int, end: int) -> int:
        """Of a span, as the whole text was counted."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def spans(self, media_type: str) -> Iterator[_Span]:
        """The chunks-to-be."""
        most = self._chunking.max_tokens
        if media_type in _CODE:
            found = code_blocks(
                self._text, media_type, lambda start, end: self.tokens(start, end) <= most
            )
        else:
            found = blocks(self._text)
        return self._joined(found)

    def _joined(self, found: list[Block]) -> Iterator[_Span]:
        open_: list[Block] = []
        begin = 0
        for block in found:
            if open_ and self._parts(open_, block, begin):
                yield self._span(open_, begin)
                open_ = []
            if open_ and not self._fits(open_[0], begin, block.end):
                trail = _trailing_headings(open_)
                body = open_[: len(open_) - len(trail)]
                if body:
                    yield self._span(body, begin)
                open_ = trail
                begin = trail[0].start if trail else self._overlap(body[-1], block)
                if not self._fits(open_[0] if open_ else block, begin, block.end):
                    begin = open_[0].start if open_ else block.start
            elif not open_:
                begin = block.start
            open_.append(block)
            if not self._fits(open_[0], begin, block.end):
                yield from self._pieces(open_, begin)
                open_ = []
        if open_:
            yield self._span(open_, begin)

    def _parts(self, open_: list[Block], block: Block, begin: int) -> bool:
        """Whether a new section begins that is not to be joined with the one before."""
        if block.kind is Kind.CODE:
            return block.headings != open_[0].headings
        if block.kind is not Kind.HEADING or open_[-1].kind is Kind.HEADING:
            return False
        if block.level < open_[0].level:
            return True
        return self.tokens(begin, open_[-1].end) >= self._chunking.min_tokens

    def _fits(self, first: Block, start: int, end: int) -> bool:
        return self.tokens(start, end) <= self._chunker.room(self._chunker.kept(first.headings))

    def _span(self, found: list[Block], begin: int) -> _Span:
        return _Span(begin, found[-1].end, self._chunker.kept(found[0].headings))

    def _overlap(self, before: Block, block: Block) -> int:
        """Where a chunk begins whose first block follows `before` in one section."""
        wanted = self._chunking.overlap_tokens
        flows = before.kind in _FLOWING and block.kind in _FLOWING
        if not wanted or not flows or before.headings != block.headings:
            return block.start
        at = max(before.start, self._back(before.end, wanted))
        again = at if at == before.start else seams.resume(self._text, at, before.end)
        return again if again < before.end else block.start

    def _back(self, end: int, tokens: int) -> int:
        """The beginning of the last so many tokens before `end`."""
        place = bisect_left(self._starts, end) - tokens
        return self._starts[place] if 0 <= place < len(self._starts) else 0

    def _pieces(self, found: list[Block], begin: int) -> Iterator[_Span]:
        """A block that is too large by itself, with the headings before it, in pieces."""
        last = found[-1]
        headings = self._chunker.kept(found[0].headings)
        later = last.headings
        if last.kind is Kind.TABLE and last.header:
            with_header = (*later, last.header)
            later = with_header if self._chunker.kept(with_header) else later
        later = self._chunker.kept(later)
        lines = last.kind not in _FLOWING
        start = done = begin
        while True:
            end = min(self._forward(start, self._chunker.room(headings)), last.end)
            if end <= done:
                start = done  # what is repeated leaves no room
                continue
            if end < last.end:
                end = seams.cut(self._text, start, end, lines=lines, after=done)
            yield _Span(start, end, headings)
            headings = later
            if end >= last.end:
                return
            again = end
            if not lines and self._chunking.overlap_tokens:
                back = self._back(end, self._chunking.overlap_tokens)
                again = seams.resume(self._text, max(back, last.start, start + 1), end)
            # It has to get on: what is repeated is less than what is new.
            start = again if again - start > (end - start) // 2 else end
            done = end

    def _forward(self, start: int, tokens: int) -> int:
        place = bisect_left(self._starts, start) + tokens
        end = self._starts[place] if place < len(self._starts) else len(self._text)
        return max(end, start + 1)


def offsets_of(tokenizer: Tokenizer) -> Offsets:
    """The tokenizer as a chunker wants it; control tokens in a text are ordinary characters."""

    def offsets(text: str) -> Sequence[int]:
        return [piece.start for piece in tokenizer.plain_pieces(text)]

    return offsets


def _parented(group: list[Chunk], most: int) -> Iterator[Chunk]:
    if not most or len(group) < 2:
        yield from group
        return
    start, end = group[0].start, max(chunk.end for chunk in group)
    for chunk in group:
        yield replace(chunk, parent_start=start, parent_end=end)


def _trailing_headings(found: list[Block]) -> list[Block]:
    at = len(found)
    while at and found[at - 1].kind is Kind.HEADING:
        at -= 1
    return found[at:]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
