"""One unit's documents that stay -> token shards: the last step of preparing data.

A unit writes its own shards, so nothing has to be put together afterwards; `shards-N.json`, written
last, says that it is done and what it wrote.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headrace.data import atomic, clean, dedup, shards
from headrace.data.document import Document
from headrace.data.manifest import SourceDigests
from headrace.data.plan import Plan, Unit
from headrace.data.sources import is_held_out
from headrace.errors import DataError
from headrace.tokens import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A callable that travels to other processes and machines."""

    plan: Plan
    work: Path
    out: Path

    def __call__(self, unit: Unit) -> int:
        """Encode the unit unless that is done; returns its number.

        Raises:
            DataError: A full disk.
        """
        if not done_path(self.work, unit.number).exists():
            _encode(self.plan, self.work, self.out, unit.number)
        return unit.number


def done_path(work: Path, number: int) -> Path:
    """Where a unit's shards are listed, once they are written."""
    return work / f"shards-{number:05d}.json"


def end_id(tokenizer: Tokenizer, named: str | None) -> int:
    """The token after each document.

    Raises:
        DataError: The tokenizer has no such token, or names none.
    """
    found = tokenizer.eos_id if named is None else tokenizer.special.get(named)
    if found is None:
        what = "names no eos_token" if named is None else f"has no special token {named!r}"
        known = ", ".join(list(tokenizer.special)[:8]) or "none"
        raise DataError(f"the tokenizer {what}, so no document could end; name one of: {known}")
    return found


def dtype_for(vocab_size: int) -> str:
    """The smaller type that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


def _encode(plan: Plan, work: Path, out: Path, number: int) -> None:
    tokenizer = _tokenizer(plan.tokenizer)
    end = end_id(tokenizer, plan.end_token)
    fates = dedup.fates(work, number)
    dropped: Counter[str] = Counter()
    splits: dict[str, tuple[list[Document], list[np.ndarray[Any, Any]]]] = {
        shards.TRAIN: ([], []),
        shards.HELD_OUT: ([], []),
    }
    dtype = np.dtype(dtype_for(tokenizer.vocab_size)).newbyteorder("<")
    digests = SourceDigests()
    for document, fate in zip(clean.documents(work, number), fates.tolist(), strict=True):
        if fate != dedup.KEPT:
            dropped[dedup.REASONS[fate]] += 1
            continue
        ids = np.array([*tokenizer.encode(document.text), end], dtype)
        if len(ids) > plan.shard_tokens:
            dropped["larger_than_shard"] += 1
            continue
        one_in = plan.held_out_one_in
        held = bool(one_in) and is_held_out(document.id, one_in=one_in)
        documents, encoded = splits[shards.HELD_OUT if held else shards.TRAIN]
        documents.append(document)
        encoded.append(ids)
        digests.add(document)
    entries: list[dict[str, Any]] = []
    for split, (documents, encoded) in splits.items():
        sizes = [len(ids) for ids in encoded]
        for place, (first, last) in enumerate(shards.cut_shards(sizes, limit=plan.shard_tokens)):
            name = f"{split}-{number:05d}-{place:02d}"
            entries.append(
                {"name": name, "split": split}
                | _write(out / name, documents[first:last], encoded[first:last])
            )
    made = {"shards": entries, "dropped": dict(dropped), "sources": digests.as_json()}
    atomic.write_bytes(done_path(work, number), json.dumps(made).encode())


def _write(
    base: Path, documents: Sequence[Document], encoded: Sequence[np.ndarray[Any, Any]]
) -> dict[str, object]:
    offsets = np.cumsum([0, *(len(ids) for ids in encoded)]).astype("<u8")
    lines = "".join(
        json.dumps(
            {"id": d.id, "source": d.source, "licence": d.licence, "origin": d.origin},
            ensure_ascii=False,
        )
        + "\n"
        for d in documents
    )
    paths = {suffix: base.with_name(f"{base.name}.{suffix}") for suffix in ("bin", "npy", "jsonl")}
    atomic.write(paths["bin"], lambda file: [file.write(ids.tobytes()) for ids in encoded])
    atomic.write(paths["npy"], lambda file: np.save(file, offsets))
    atomic.write_bytes(paths["jsonl"], lines.encode())
    return {
        "documents": len(documents),
        "tokens": int(offsets[-1]),
        "sha256": {suffix: shards.file_hash(path) for suffix, path in paths.items()},
    }
