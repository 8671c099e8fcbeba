"""An item's bytes → a document, its chunks and its row of the status table. Nothing is written."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from headrace.data.minhash import Permutations, signature
from headrace.data.words import ngram_hashes, words
from headrace.retrieval.chunking import Chunker
from headrace.retrieval.parsing import ParserPool, Raw, Refusal, Unreadable, document
from headrace.retrieval.sync.state import Outcome, Status
from headrace.types import Chunk, Integrity, SourceDocument
from headrace.types.retrieval import Scalar

_REVISION = 1
"""Counted up when the same bytes would be read otherwise."""
_PERMUTATIONS = 128
_SHINGLE_WORDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a source says of an item beside its bytes."""

    source: str
    key: str
    document: str
    title: str = ""
    modified_s: float = 0.0
    readers: frozenset[str] | None = None
    integrity: Integrity = Integrity.UNTRUSTED
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])

    @property
    def digest(self) -> str:
        readers = None if self.readers is None else sorted(self.readers)
        said = [self.title, self.modified_s, readers, self.integrity, sorted(self.metadata.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What will be written: a document with its chunks, or only why there is none."""

    status: Status
    readers: frozenset[str] | None = None
    document: SourceDocument | None = None
    chunks: tuple[Chunk, ...] = ()


class DocumentReader:
    """Parses, cuts and signs."""

    def __init__(self, parser: ParserPool, chunker: Chunker) -> None:
        self.parser = parser
        self._chunker = chunker
        self.way = f"{_REVISION}:{chunker.digest}:{_digest(repr(parser.limits))}"
        """Equal ways make the same document of the same bytes."""

    async def prepare(self, facts: Facts, raw: Raw, *, revision: str, now_s: float) -> Prepared:
        """Read it; a refusal is a failed status."""
        content = hashlib.sha256(raw.data).hexdigest()
        found = await self.parser.parse(raw)
        if isinstance(found, Refusal):
            size = len(raw.data)
            return self.failed(
                facts, found, now_s=now_s, revision=revision, content=content, size_bytes=size
            )
        made = document(
            facts.document,
            found,
            source=facts.source,
            title=facts.title,
            modified_s=facts.modified_s,
            readers=facts.readers,
            integrity=facts.integrity,
            metadata=facts.metadata,
        )
        # On a thread: tokenizers are native code, and a long text must not stop the loop.
        chunks = await asyncio.to_thread(self._chunker.chunks, made)
        signed = await asyncio.to_thread(sign, made.text)
        status = Status(
            source=facts.source,
            key=facts.key,
            document=facts.document,
            outcome=Outcome.SEARCHABLE,
            notes=found.notes,
            revision=revision,
            content=content,
            facts=facts.digest,
            text=made.sha256,
            way=self.way,
            title=made.title,
            modified_s=made.modified_s,
            size_bytes=len(raw.data),
            chunks=len(chunks),
            checked_s=now_s,
            indexed_s=now_s,
            signature=signed,
        )
        return Prepared(status=status, readers=facts.readers, document=made, chunks=chunks)

    def failed(
        self,
        facts: Facts,
        why: Refusal,
        *,
        now_s: float,
        revision: str = "",
        content: str = "",
        size_bytes: int = 0,
    ) -> Prepared:
        """A row that says why there is no document."""
        return Prepared(
            status=Status(
                source=facts.source,
                key=facts.key,
                document=facts.document,
                outcome=Outcome.FAILED,
                reason=why.reason,
                detail=why.detail,
                revision="" if why.reason is Unreadable.UNAVAILABLE else revision,
                content=content,
                facts=facts.digest,
                way=self.way,
                size_bytes=size_bytes,
                checked_s=now_s,
            )
        )


def sign(text: str) -> bytes:
    """The MinHash of a text, by which near duplicates are found."""
    hashes = ngram_hashes(words(text), _SHINGLE_WORDS)
    return signature((hashes >> 32).astype("uint32"), _permutations()).tobytes()


@lru_cache(maxsize=1)
def _permutations() -> Permutations:
    return Permutations.of(_PERMUTATIONS)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
