"""Documents -> a manifest: what a model was trained on, by source, with counts and a hash.

Invariant: the hash covers ids and texts in order, so equal manifests mean equal data.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headrace.data.sources import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCount:
    """What one source gave."""

    source: str
    licence: str
    documents: int
    text_bytes: int
    sha256: str


def manifest(documents: Iterable[Document]) -> tuple[SourceCount, ...]:
    """One row a source, in order of first appearance."""
    by_source: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        by_source.setdefault((document.source, document.licence), []).append(document)
    return tuple(
        SourceCount(
            source=source,
            licence=licence,
            documents=len(held),
            text_bytes=sum(len(document.text.encode()) for document in held),
            sha256=_digest(held),
        )
        for (source, licence), held in by_source.items()
    )


def as_json(rows: Iterable[SourceCount]) -> list[dict[str, object]]:
    """The rows as they go into `manifest.json`."""
    return [asdict(row) for row in rows]


def _digest(documents: Iterable[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        for field in (document.id.encode(), document.text.encode()):
            # Length first: ("ab", "c") and ("a", "bc") must not hash alike.
            digest.update(len(field).to_bytes(8, "big") + field)
    return digest.hexdigest()


class SourceDigests:
    """What each source gave, where documents come one by one and the parts are joined later.

    The hash is the sum, modulo 2^256, of every document's own (id, licence and text), so it depends
    on which documents there are and not on who read them when.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], tuple[int, int, int]] = {}

    def add(self, document: Document) -> None:
        """Count one document."""
        digest = hashlib.sha256()
        for field in (document.id, document.licence, document.text):
            data = field.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
        self._join(
            (document.source, document.licence),
            (1, len(document.text.encode()), int.from_bytes(digest.digest(), "big")),
        )

    def join(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what another `as_json` said."""
        for row in rows:
            key = (str(row["source"]), str(row["licence"]))
            numbers = (int(row["documents"]), int(row["text_bytes"]), int(row["sha256"], 16))
            self._join(key, numbers)

    def as_json(self) -> list[dict[str, object]]:
        """One row a source and licence, by name."""
        return as_json(
            SourceCount(
                source=source,
                licence=licence,
                documents=documents,
                text_bytes=text_bytes,
                sha256=f"{digest:064x}",
            )
            for (source, licence), (documents, text_bytes, digest) in sorted(self._rows.items())
        )

    def _join(self, key: tuple[str, str], numbers: tuple[int, int, int]) -> None:
        held = self._rows.get(key, (0, 0, 0))
        documents, text_bytes, digest = (a + b for a, b in zip(held, numbers, strict=True))
        self._rows[key] = (documents, text_bytes, digest % (1 << 256))
