"""Documents -> a manifest: what a model was trained on, by source, with counts and a hash.

Invariant: the hash covers ids, licences and texts in order, so equal manifests mean equal data.
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
    hashes: dict[tuple[str, str], "hashlib._Hash"] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for document in documents:
        key = (document.source, document.licence)
        digest = hashes.setdefault(key, hashlib.sha256())
        text = document.text.encode()
        for field in (document.id.encode(), text):
            # Length first: ("ab", "c") and ("a", "bc") must not hash alike.
            digest.update(len(field).to_bytes(8, "big") + field)
        count = counts.setdefault(key, [0, 0])
        count[0] += 1
        count[1] += len(text)
    return tuple(
        SourceCount(
            source=source,
            licence=licence,
            documents=counts[source, licence][0],
            text_bytes=counts[source, licence][1],
            sha256=digest.hexdigest(),
        )
        for (source, licence), digest in hashes.items()
    )


def as_json(rows: Iterable[SourceCount]) -> list[dict[str, object]]:
    """The rows as they go into `manifest.json`."""
    return [asdict(row) for row in rows]
