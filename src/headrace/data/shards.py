"""A prepared directory: token shards and their manifest, written once, read through memory maps.

    manifest.json            what it is made of and what was left out, with a hash of every file
    tokenizer.json           the tokenizer whose ids these are
    train-00000-00.bin       ids of document after document, uint16 or uint32, little-endian
    train-00000-00.npy       where each document begins, and where the last ends: uint64
    train-00000-00.jsonl     id, source, licence and origin of each document, in the same order

Every document ends with the end token. The manifest is written last: without one there is nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from headrace.data.pack import TokenRow
from headrace.errors import DataError

FORMAT = "headrace-tokens-1"
MANIFEST = "manifest.json"
TRAIN, HELD_OUT = "train", "held_out"
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where one document of a shard is from."""

    id: str
    source: str
    licence: str
    origin: str


def is_prepared(path: Path) -> bool:
    """Whether this is a directory that `headrace data prepare` finished."""
    try:
        return _manifest(path).get("format") == FORMAT
    except DataError:
        return False


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Shards:
    """The documents of one split, as ids.

    Invariant: opening checks that every file has the size the manifest says; `verify` also hashes.
    """

    def __init__(self, path: Path, *, split: str = TRAIN) -> None:
        self.path = path
        self.split = split
        self.manifest = _manifest(path)
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                f"{path / MANIFEST} is no {FORMAT}; make one with headrace data prepare"
            )
        self._entries: list[dict[str, Any]] = [
            entry for entry in self.manifest["shards"] if entry["split"] == split
        ]
        dtype = np.dtype(self.manifest["dtype"]).newbyteorder("<")
        self._ids: list[npt.NDArray[Any]] = []
        offsets: list[npt.NDArray[np.uint64]] = []
        for entry in self._entries:
            bin_path = path / f"{entry['name']}.bin"
            wanted = entry["tokens"] * dtype.itemsize
            found = bin_path.stat().st_size if bin_path.exists() else -1
            if found != wanted:
                has = f"has {found:,} bytes" if found >= 0 else "is not there"
                raise DataError(f"{bin_path} {has}, {wanted:,} are due; prepare the data again")
            self._ids.append(np.memmap(bin_path, dtype, "r"))
            offsets.append(np.load(path / f"{entry['name']}.npy"))
        self._offsets = offsets
        self._firsts = np.cumsum([0, *(entry["documents"] for entry in self._entries)])

    def __len__(self) -> int:
        """Documents."""
        return int(self._firsts[-1])

    @property
    def tokens(self) -> int:
        """End tokens included."""
        return sum(entry["tokens"] for entry in self._entries)

    @property
    def end_id(self) -> int:
        """The token after each document."""
        return int(self.manifest["end_id"])

    @property
    def fingerprint(self) -> str:
        """Of everything in the split: the same ids in the same order, the same tokenizer."""
        hashes = [entry["sha256"] for entry in self._entries]
        text = json.dumps([self.manifest["tokenizer"]["fingerprint"], self.split, hashes])
        return hashlib.sha256(text.encode()).hexdigest()

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        parts = [np.diff(part).astype(np.int64) for part in self._offsets]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def ids(self, document: int) -> npt.NDArray[Any]:
        """The ids of one document, as they lie in the file.

        Raises:
            DataError: There is no such document.
        """
        shard, place = self._find(document)
        begin, end = self._offsets[shard][place : place + 2].tolist()
        return self._ids[shard][begin:end]

    def provenance(self, document: int) -> Provenance:
        """Where a document is from."""
        shard, place = self._find(document)
        path = self.path / f"{self._entries[shard]['name']}.jsonl"
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if number == place:
                    return Provenance(**json.loads(line))
        raise DataError(f"{path} ends before line {place + 1}; prepare the data again")

    def verify(self) -> None:
        """Hash all files of the split.

        Raises:
            DataError: One is not what was written.
        """
        for entry in self._entries:
            for suffix, wanted in entry["sha256"].items():
                path = self.path / f"{entry['name']}.{suffix}"
                if not path.exists() or file_hash(path) != wanted:
                    raise DataError(f"{path} is not what was written; prepare the data again")

    def _find(self, document: int) -> tuple[int, int]:
        if not 0 <= document < len(self):
            raise DataError(f"document {document} of {len(self)} in split {self.split}")
        shard = int(np.searchsorted(self._firsts, document, side="right")) - 1
        return shard, document - int(self._firsts[shard])


class ShardRows(Sequence[TokenRow]):
    """The split's documents as rows of at most `max_tokens` positions, cut as `pack.cut` cuts.

    Only two numbers a document are held in memory, so a `Mixture` over it costs little however
    large the corpus is.
    """

    def __init__(self, shards: Shards, *, max_tokens: int) -> None:
        if max_tokens < 1:
            raise DataError(f"max_tokens {max_tokens} cannot hold a token; give at least 1")
        self._shards = shards
        self._positions = shards.lengths() - 1
        self._pieces = -(-self._positions // max_tokens)
        self._firsts = np.concatenate(([0], np.cumsum(self._pieces)))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        document = int(np.searchsorted(self._firsts, index, side="right")) - 1
        piece = index - int(self._firsts[document])
        positions, pieces = int(self._positions[document]), int(self._pieces[document])
        begin, end = positions * piece // pieces, positions * (piece + 1) // pieces
        ids = np.asarray(self._shards.ids(document)[begin : end + 1], np.int32)
        return TokenRow(ids=ids, weights=np.ones(len(ids), np.float32))


def cut_shards(sizes: Sequence[int], *, limit: int) -> Iterator[tuple[int, int]]:
    """(first, end) of the runs of documents whose tokens together fit a shard."""
    edges, total = [0], 0
    for place, size in enumerate(sizes):
        if total + size > limit and place > edges[-1]:
            edges.append(place)
            total = 0
        total += size
    edges.append(len(sizes))
    return (pair for pair in pairwise(edges) if pair[0] < pair[1])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not prepared data ({MANIFEST}: {error}); make it with headrace data prepare"
        ) from error
