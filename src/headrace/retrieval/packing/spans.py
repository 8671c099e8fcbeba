"""Passages → pieces: what overlaps or touches becomes one span of its document.

Invariants: no character of a document is in two pieces; `piece.text` is the document's text from
`start` to `end`; the result does not depend on the order of equals.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.types import Passage, SourceDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A span of a document, made of one passage or several."""

    document: str
    start: int
    end: int
    text: str
    ranked: tuple[tuple[int, Passage], ...]
    """Its passages with their ranks, best first."""
    cut: bool = False

    @property
    def best(self) -> Passage:
        return self.ranked[0][1]

    @property
    def rank(self) -> int:
        return self.ranked[0][0]


def piece_of(
    rank: int, passage: Passage, document: SourceDocument | None, *, parent: bool
) -> Piece:
    """One passage alone, or the larger piece around it.

    Args:
        rank: Of the passage, from 0.
        passage: Its span and its text agree.
        document: Where `parent` is wanted.
        parent: Take the parent's span; its text is the document's.
    """
    chunk = passage.chunk
    start, end, text = chunk.start, chunk.end, chunk.text
    if parent and document is not None:
        start, end = min(chunk.parent_start, start), max(chunk.parent_end, end)
        text = document.text[start:end]
    return Piece(
        document=chunk.document, start=start, end=end, text=text, ranked=((rank, passage),)
    )


def agrees(passage: Passage, document: SourceDocument | None) -> bool:
    """Whether the span is as long as the text, and stands so in the document, where it is known."""
    chunk = passage.chunk
    if chunk.end - chunk.start != len(chunk.text) or not chunk.text.strip():
        return False
    return document is None or document.text[chunk.start : chunk.end] == chunk.text


def has_parent(passage: Passage, document: SourceDocument | None) -> bool:
    """Whether a larger piece around it is known word for word."""
    chunk = passage.chunk
    larger = chunk.parent_end - chunk.parent_start > chunk.end - chunk.start
    return document is not None and larger and chunk.parent_end <= len(document.text)


def merge(pieces: Iterable[Piece], documents: Mapping[str, SourceDocument]) -> list[Piece]:
    """Join what overlaps, touches, or has only white space between, best rank first."""
    by_document: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_document.setdefault(piece.document, []).append(piece)
    merged: list[Piece] = []
    for id, several in by_document.items():
        merged += _joined(sorted(several, key=_place), documents.get(id))
    return sorted(merged, key=lambda piece: piece.rank)


def _place(piece: Piece) -> tuple[int, int, int]:
    return piece.start, -piece.end, piece.rank


def _joined(pieces: Sequence[Piece], document: SourceDocument | None) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        before = found[-1] if found else None
        if before is None or not _meet(before, piece, document):
            found.append(piece)
            continue
        end = max(before.end, piece.end)
        if document is not None:
            text = document.text[before.start : end]
        else:
            text = before.text + piece.text[before.end - piece.start :]
        found[-1] = Piece(
            document=piece.document,
            start=before.start,
            end=end,
            text=text,
            ranked=tuple(sorted((*before.ranked, *piece.ranked), key=lambda pair: pair[0])),
        )
    return found


def _meet(before: Piece, piece: Piece, document: SourceDocument | None) -> bool:
    if piece.start <= before.end:
        return True
    return document is not None and not document.text[before.end : piece.start].strip()
