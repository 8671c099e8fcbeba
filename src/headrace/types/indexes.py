"""Named indexes of an installation: what the gateway and the agents may ask of them.

`Indexes` is the whole of retrieval as others see it. An index belongs to a team; whoever asks for
another team's is told that it is not there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from headrace.types.backends import Backend, TokenCounter
from headrace.types.content import Integrity
from headrace.types.embedding import Embedder
from headrace.types.retrieval import Filter, Scalar, SearchRequest, SearchResult
from headrace.types.usage import Caller, Trail, Usage


class IndexOwner(NamedTuple):
    """Whose an index is; both empty = the installation's own."""

    org: str = ""
    team: str = ""


class CitationPolicy(StrEnum):
    """What becomes of a claim that its source does not support."""

    ANNOTATE = "annotate"
    STRIKE = "strike"
    RETRY = "retry"
    REFUSE = "refuse"
    ESCALATE = "escalate"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """How an index is made; kept in the index itself."""

    name: str
    owner: IndexOwner = IndexOwner()
    shared: bool = False
    """Every team may search it; only its own changes it."""
    embedder: str = ""
    """Name of a model that makes vectors; empty = the only one that is served."""
    chunk_tokens: int = 250
    overlap_tokens: int = 32
    parent_tokens: int = 1000
    """About the size of what may be shown around a chunk; 0 = chunks have no parent."""
    policy: CitationPolicy = CitationPolicy.ANNOTATE
    model: str = ""
    """Which answers where a question names none; empty = the only one that is served."""
    budget_tokens: int = 0
    """Of the sources in an answer's prompt; 0 = half of the model's context."""
    k: int = 20
    """Passages that an answer's sources are chosen from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexGeneration:
    """One way of making an index' vectors, as it is shown."""

    number: int
    embedder: str
    fingerprint: str
    dimensions: int
    active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexCard:
    """What a client may know of an index."""

    spec: IndexSpec
    created_s: int
    snapshot: str
    generations: tuple[IndexGeneration, ...]
    migrating: bool = False
    documents: int = 0
    chunks: int = 0
    failed: int = 0
    """Documents that could not be read."""
    sources: tuple[str, ...] = ()


class DocumentState(StrEnum):
    SEARCHABLE = "searchable"
    UNCHANGED = "unchanged"  # it was searchable as it came
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentStatus:
    """What became of one document."""

    id: str
    state: DocumentState
    reason: str = ""
    """Of one that is not searchable: a word, as `encrypted`."""
    detail: str = ""
    """The same in a sentence, with the way out."""
    notes: tuple[str, ...] = ()
    title: str = ""
    source: str = ""
    media_type: str = ""
    sha256: str = ""
    modified_s: float = 0.0
    chunks: int = 0
    readers: frozenset[str] | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    superseded_by: str = ""
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDocument:
    """A document that is handed in: a file's bytes, or a text."""

    id: str
    data: bytes
    filename: str = ""
    """With the suffix that says what it is; empty = it is a text."""
    media_type: str = ""
    title: str = ""
    modified_s: float = 0.0
    readers: frozenset[str] | None = None
    integrity: Integrity = Integrity.UNTRUSTED
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """What became of documents that were handed in, in their order."""

    documents: tuple[DocumentStatus, ...]
    snapshot: str
    embedded: int
    """Chunks whose vectors were made."""
    reused: int
    """Chunks whose vectors were there."""
    usage: Usage = Usage()


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """What a source had that the index did not, and the reverse."""

    source: str
    added: int
    changed: int
    removed: int
    unchanged: int
    failed: tuple[DocumentStatus, ...]
    snapshot: str
    embedded: int = 0
    usage: Usage = Usage()


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentPage:
    documents: tuple[DocumentStatus, ...]
    more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """On whose behalf something is done, and with which models."""

    embedder: Callable[[str], Embedder]
    """A model by name. Raises: ModelNotFound."""
    caller: Caller = Caller()
    owner: IndexOwner = IndexOwner()
    """Whose indexes are meant."""
    trace: str = ""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grounding:
    """How a question is answered from an index; what is None is as the index says."""

    index: str
    principals: frozenset[str] | None = frozenset()
    """As `SearchRequest.principals`."""
    filter: Filter | None = None
    k: int | None = None
    budget_tokens: int | None = None
    policy: CitationPolicy | None = None
    style: str = ""
    """How the model is asked: quote, general or slots; empty = as it is known to want."""
    escalate: Backend | None = None
    """Who is asked where an answer fails and the policy is escalate."""
    abstain_below: float = 0.0
    """Relevance of what was found, 0 to 1, below which no model is asked; 0 = one always is."""
    rewrite: bool = False
    """Ask the model first for the question as it stands alone, where there are turns before."""
    context_tokens: int = 0
    """Of the model; 0 = unknown."""
    counter: TokenCounter | None = None
    """Counts what the model will read; None = nobody can, and bytes bound it."""


class Indexes(Protocol):
    """Named indexes of teams.

    Every method raises NotFound for an index that the errand's owner does not have (searching and
    answering: and that no other team shares), with the same words whether it exists or not.
    """

    async def create(self, spec: IndexSpec, errand: Errand) -> IndexCard:
        """Raises: Conflict: The name is taken; InvalidParameter: A name or size that cannot be."""
        ...

    async def list(self, owner: IndexOwner) -> Sequence[IndexCard]:
        """Its own, and those that are shared with it."""
        ...

    async def describe(self, name: str, owner: IndexOwner) -> IndexCard: ...

    async def spec(self, name: str, owner: IndexOwner) -> IndexSpec:
        """How it was made, without looking into it."""
        ...

    async def delete(self, name: str, owner: IndexOwner) -> None:
        """The index, with all that it kept."""
        ...

    async def ingest(
        self, name: str, documents: Sequence[NewDocument], errand: Errand
    ) -> Ingested: ...

    async def documents(
        self,
        name: str,
        owner: IndexOwner,
        principals: frozenset[str] | None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> DocumentPage:
        """By id, those that could not be read among them where `principals` is None."""
        ...

    async def document(
        self, name: str, id: str, owner: IndexOwner, principals: frozenset[str] | None
    ) -> DocumentStatus:
        """Raises: NotFound: It is not there, or not for these eyes."""
        ...

    async def remove(self, name: str, id: str, owner: IndexOwner) -> None:
        """Raises: NotFound: It is not there."""
        ...

    async def sync(
        self, name: str, source: str, errand: Errand, *, only: Collection[str] | None = None
    ) -> Sequence[Synced]:
        """Bring the index to where a source is now; empty = all of its sources. With `only`, those
        of its items alone."""
        ...

    async def signing_secret(self, name: str, source: str, owner: IndexOwner) -> bytes:
        """With which deliveries of a source are signed. Raises: InvalidParameter: It takes none."""
        ...

    async def search(self, request: SearchRequest, errand: Errand) -> SearchResult: ...

    async def snapshot(self, name: str, owner: IndexOwner) -> str:
        """Of the documents and vectors that would answer now."""
        ...

    def grounded(self, how: "Grounding", backend: Backend, errand: Errand) -> Backend:
        """A backend that answers the last question of a conversation from an index, with citations:
        it retrieves, packs, asks `backend` and checks what it says."""
        ...
