"""Documents cut into passages, for tests of packing and answering."""

from collections.abc import Sequence

from headrace.types import Chunk, Integrity, Passage, SourceDocument


def passage(
    document: str,
    text: str,
    start: int,
    end: int,
    *,
    ordinal: int = 0,
    title: str = "",
    source: str = "",
    parent: tuple[int, int] = (0, 0),
    superseded_by: str = "",
    conflicts: tuple[str, ...] = (),
    score: float = 1.0,
) -> Passage:
    """`text[start:end]` of a document, found."""
    chunk = Chunk(
        document=document,
        ordinal=ordinal,
        start=start,
        end=end,
        text=text[start:end],
        parent_start=parent[0],
        parent_end=parent[1],
    )
    return Passage(
        chunk=chunk,
        title=title,
        source=source,
        modified_s=0.0,
        integrity=Integrity.UNTRUSTED,
        metadata={},
        score=score,
        superseded_by=superseded_by,
        conflicts=conflicts,
    )


def cut(document: SourceDocument, size: int, *, overlap: int = 0) -> list[Passage]:
    """Pieces of `size` characters, each but the last, that share `overlap`."""
    starts = range(0, max(1, len(document.text) - overlap), size - overlap)
    return [
        passage(
            document.id,
            document.text,
            start,
            min(start + size, len(document.text)),
            ordinal=ordinal,
            title=document.title,
            source=document.source,
        )
        for ordinal, start in enumerate(starts)
    ]


def whole(texts: Sequence[str], *, title: str = "") -> list[Passage]:
    """Each text a document of one passage."""
    return [
        passage(f"doc-{at}", text, 0, len(text), title=title, score=1.0 / (at + 1))
        for at, text in enumerate(texts)
    ]
