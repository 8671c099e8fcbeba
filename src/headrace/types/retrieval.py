"""Documents to cited passages: what is kept, what is asked of an index, what it finds.

All spans are characters of `SourceDocument.text`, start included and end not, whatever it was
before it became text: `text[start:end]` is the passage, word for word.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from headrace.types.content import Integrity
from headrace.types.usage import Caller, Usage

Scalar: TypeAlias = str | int | float | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceDocument:
    """One document as text. Another revision of it has the same `id`."""

    id: str
    """Unique in its index and lasting: where it came from, never what it says."""
    text: str
    """What a person would read of it. Every span counts its characters."""
    source: str = ""
    """Name of the source that brought it; empty = it was handed in."""
    title: str = ""
    media_type: str = "text/plain"
    """Of what the text was read from."""
    modified_s: float = 0.0
    """When it was last changed, Unix time; 0 = not known."""
    readers: frozenset[str] | None = None
    """Principals who may know that it exists; None = all who may ask the index."""
    integrity: Integrity = Integrity.UNTRUSTED
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    """What filters may ask for, beside the fields above."""

    @property
    def sha256(self) -> str:
        """Of the text alone: equal texts are equal documents, wherever they lie."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A piece of a document that is found as one."""

    document: str
    ordinal: int
    """From 0, in the order of the text."""
    start: int
    end: int
    text: str
    """`document.text[start:end]`."""
    headings: tuple[str, ...] = ()
    """The titles above it, outermost first."""
    parent_start: int = 0
    parent_end: int = 0
    """The larger piece around it that may be shown in its stead; equal = there is none."""
    tokens: int = 0
    """Of `text`, as the index' tokenizer counts."""

    @property
    def embedded(self) -> str:
        """What its vector is made of: the titles above it, then its text."""
        return "\n".join((*self.headings, self.text))

    @property
    def sha256(self) -> str:
        """Of `embedded`: pieces that share it share their vector."""
        return hashlib.sha256(self.embedded.encode("utf-8", "surrogatepass")).hexdigest()


class Compare(StrEnum):
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    PREFIX = "prefix"  # texts only


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """One field compared with one value. A document that lacks the field fails all but `ne`."""

    field: str
    """`id`, `source`, `title`, `media_type`, `modified_s`, or a key of the metadata."""
    compare: Compare = Compare.EQ
    value: Scalar


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """A field that has one of these values."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AllOf:
    filters: tuple["Filter", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyOf:
    filters: tuple["Filter", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Not:
    filter: "Filter"


Filter: TypeAlias = Where | OneOf | AllOf | AnyOf | Not


class SearchMode(StrEnum):
    HYBRID = "hybrid"
    KEYWORD = "keyword"
    VECTOR = "vector"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """A question to one index."""

    index: str
    query: str
    k: int = 10
    """Passages wanted."""
    mode: SearchMode = SearchMode.HYBRID
    filter: Filter | None = None
    principals: frozenset[str] | None = frozenset()
    """Whose eyes it is searched with: what none of them may read is not there. None = an
    administrator's, who sees everything."""
    rerank: bool = True
    deadline_s: float | None = None
    caller: Caller = Caller()
    trace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A chunk that was found, with what must be known of its document to show and to cite it."""

    chunk: Chunk
    title: str
    source: str
    modified_s: float
    integrity: Integrity
    metadata: Mapping[str, Scalar]
    score: float
    """By which it was ranked; comparable within one answer only."""
    features: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the score was made of: bm25, cosine, fused, ..., and the rank in each list."""
    superseded_by: str = ""
    """The document that says it anew; empty = it is the newest there is."""
    conflicts: tuple[str, ...] = ()
    """Documents that say otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    passages: tuple[Passage, ...]
    """Best first, at most `k`."""
    snapshot: str
    """What state of the index answered; equal = the same documents and vectors."""
    matching: int
    """Chunks that the filter and the principals let through."""
    shortfall: str = ""
    """Why there are fewer than `k`; never empty where there are."""
    notes: tuple[str, ...] = ()
    """What was decided on the way, in sentences: weights, fallbacks, what was left out."""
    usage: Usage = Usage()
    """Of the embedding calls that it took."""
