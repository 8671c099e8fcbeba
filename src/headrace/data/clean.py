"""One unit of input -> its documents cleaned, judged, hashed: the first step of preparing data.

A unit leaves three files: `clean-N.jsonl` (the documents that stay so far), `clean-N.npz` (what
duplicates are found by) and last `clean-N.json`, the counts, which says that the unit is done.

Invariant: what a unit leaves is a pure function of plan and files; read = kept + dropped + skipped.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.data import atomic, files, pii, sources
from headrace.data.contamination import NgramIndex
from headrace.data.document import Document
from headrace.data.filters import C4
from headrace.data.minhash import Signature, signatures
from headrace.data.plan import Near, Piece, Plan, Unit
from headrace.data.words import ngram_hashes, words

_EXAMPLES = 20
"""So many skipped records of a unit are named in full; all are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaner:
    """Plan and working directory: a callable that travels to other processes and machines."""

    plan: Plan
    work: Path

    def __call__(self, unit: Unit) -> int:
        """Clean the unit unless that is done; returns its number.

        Raises:
            DataError: A file that cannot be read to its end, or a full disk.
        """
        if not counts_path(self.work, unit.number).exists():
            _clean(self.plan, self.work, unit)
        return unit.number


@dataclass(slots=True)
class _Tally:
    read: int = 0
    read_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    pii: Counter[str] = field(default_factory=Counter[str])
    examples: list[str] = field(default_factory=list[str])
    files: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """Files with records that have no text field -> [texts, records without, the first's detail];
    also those of which other units read the rest."""


def counts_path(work: Path, number: int) -> Path:
    """Where a unit's counts are, once it is done."""
    return work / f"clean-{number:05d}.json"


def texts_path(work: Path, number: int) -> Path:
    """Where a unit's documents are."""
    return work / f"clean-{number:05d}.jsonl"


def arrays_path(work: Path, number: int) -> Path:
    """Where a unit's hashes, signatures, lengths and offsets are."""
    return work / f"clean-{number:05d}.npz"


def index_path(work: Path) -> Path:
    """Where the n-grams of the evaluation sets are."""
    return work / "against.npz"


def shingles(text: str, near: Near) -> npt.NDArray[np.uint32]:
    """The 32-bit hashes of a text's word n-grams, ascending, each once."""
    hashes = ngram_hashes(words(text), near.shingle_words)
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def content_hash(text: str) -> bytes:
    """What two documents that differ in white space or in Unicode's composition share."""
    joined = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(joined.encode()).digest()[:16]


def documents(work: Path, number: int) -> Iterator[Document]:
    """A unit's documents, in order."""
    with texts_path(work, number).open("rb") as file:
        for line in file:
            yield Document(**json.loads(line))


def _clean(plan: Plan, work: Path, unit: Unit) -> None:
    tally = _Tally()
    order: list[tuple[int, int]] = []
    hashes: list[bytes] = []
    lengths: list[int] = []
    offsets = [0]
    sets: list[npt.NDArray[np.uint32]] = []
    made: list[Signature] = []
    functions = plan.near.functions() if plan.near is not None else None

    def fill(file: Any) -> None:
        for place, document in _kept(plan, work, unit, tally):
            fields = {name: getattr(document, name) for name in _FIELDS}
            line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            order.append(place)
            hashes.append(content_hash(document.text))
            lengths.append(len(document.text))
            offsets.append(offsets[-1] + len(line))
            if plan.near is not None and functions is not None:
                sets.append(shingles(document.text, plan.near))
                if len(sets) == 64:
                    made.append(signatures(sets, functions))
                    sets.clear()

    atomic.write(texts_path(work, unit.number), fill)
    if functions is not None:
        made.append(signatures(sets, functions))
    arrays = {
        "order": np.array(order, np.int64).reshape(-1, 2),
        "hashes": np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2),
        "lengths": np.array(lengths, np.int64),
        "offsets": np.array(offsets, np.int64),
        "signatures": np.concatenate(made) if made else np.empty((len(order), 0), np.uint32),
    }
    atomic.write_arrays(arrays_path(work, unit.number), arrays)
    counts = {
        "read": tally.read,
        "read_bytes": tally.read_bytes,
        "kept": len(order),
        "reasons": dict(sorted(tally.reasons.items())),
        "pii": dict(sorted(tally.pii.items())),
        "examples": tally.examples,
        "files": tally.files,
    }
    atomic.write_bytes(counts_path(work, unit.number), json.dumps(counts).encode())


_FIELDS = ("id", "source", "licence", "text", "origin")


def _kept(
    plan: Plan, work: Path, unit: Unit, tally: _Tally
) -> Iterator[tuple[tuple[int, int], Document]]:
    judge = _Judge(plan, index_path(work) if plan.against else None)
    for piece in unit.pieces:
        texts = bare = 0
        first = ""
        for number, item in _read(plan, piece):
            tally.read += 1
            if isinstance(item, files.Skipped):
                tally.reasons[item.reason] += 1
                if item.reason == "no_text":
                    bare += 1
                    first = first or item.detail
                if len(tally.examples) < _EXAMPLES:
                    where = f"{piece.path}:{item.number}"
                    tally.examples.append(f"{where}: {item.reason}: {item.detail}")
                continue
            texts += 1
            tally.read_bytes += len(item.text.encode())
            document, reason = judge(item, tally.pii)
            if reason:
                tally.reasons[reason] += 1
            else:
                yield (piece.file, number), document
        if bare or piece.stripe.count > 1:
            tally.files[str(piece.path)] = [texts, bare, first]


class _Judge:
    """Everything that is decided about a document by itself."""

    def __init__(self, plan: Plan, index: Path | None) -> None:
        self._plan = plan
        self._scrub = pii.load(plan.scrubber) if plan.scrubber is not None else None
        self._index = None if index is None else _index(index, index.stat().st_mtime_ns)
        self._c4 = C4()

    def __call__(self, document: Document, found: Counter[str]) -> tuple[Document, str]:
        """The document as it is to be, and the reason to drop it, empty where it stays."""
        plan = self._plan
        if plan.licences and document.licence not in plan.licences:
            return document, f"licence:{document.licence}"
        if self._index is not None:
            owner = self._index.found_in(words(document.text))
            if owner is not None:
                return document, f"contaminated:{owner}"
        if plan.prose_lines:
            text = "\n".join(self._c4.prose_lines(document.text))
            document = replace(document, text=text)
        if not document.text.strip():
            return document, "empty"
        for judge in plan.filters:
            verdict = judge(document)
            if not verdict.keep:
                return document, verdict.reason
        if self._scrub is not None:
            text, counts = self._scrub(document.text)
            found.update(counts)
            document = replace(document, text=text)
        return document, ""


def _read(plan: Plan, piece: Piece) -> Iterator[tuple[int, Document | files.Skipped]]:
    source = piece.source
    if piece.path is None:
        library = sources.stdlib() if source.name == "stdlib" else sources.stdlib_prose()
        for number, document in enumerate(library, start=1):
            if piece.stripe.has(number):
                yield number, document
        return
    prefix = "/".join(filter(None, (source.name, piece.relative)))
    for record in files.read(piece.path, text_field=plan.text_field, stripe=piece.stripe):
        if isinstance(record, files.Skipped):
            yield record.number, record
            continue
        yield (
            record.number,
            Document(
                id=f"{prefix}:{record.key}",
                source=source.name,
                licence=record.licence or source.licence,
                text=record.text,
                origin=record.origin or f"{piece.path}:{record.number}",
            ),
        )


def save_index(work: Path, index: NgramIndex) -> None:
    """Put the n-grams where the tasks find them."""
    arrays: dict[str, Any] = {"sets": np.array(index.sets, str)}
    arrays |= {f"hashes-{size}": part for size, part in index.hashes.items()}
    arrays |= {f"owners-{size}": part for size, part in index.owners.items()}
    arrays["numbers"] = np.array([index.n, index.texts, index.too_short])
    atomic.write_arrays(index_path(work), arrays)


@lru_cache(maxsize=1)
def _index(path: Path, written_ns: int) -> NgramIndex:
    """Loaded once a process; `written_ns` tells a newer index at the same place apart."""
    with np.load(path) as held:
        sizes = [int(name.removeprefix("hashes-")) for name in held if name.startswith("hashes-")]
        n, texts, too_short = (int(number) for number in held["numbers"])
        return NgramIndex(
            n=n,
            sets=tuple(str(name) for name in held["sets"]),
            hashes={size: held[f"hashes-{size}"] for size in sizes},
            owners={size: held[f"owners-{size}"] for size in sizes},
            texts=texts,
            too_short=too_short,
        )
