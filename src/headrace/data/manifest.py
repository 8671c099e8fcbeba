"""Documents -> a manifest: what a model was trained on, by source, with counts and a hash.

Invariant: the hash covers ids and texts in order, so equal manifests mean equal data.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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
