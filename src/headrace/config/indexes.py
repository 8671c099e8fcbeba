"""Settings of retrieval: where indexes lie, named ones with their sources, context of a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalSettings:
    home: str = ""
    """files | postgres: what keeps indexes; empty = postgres where `store.url` is, else files."""
    url: str = ""
    """postgresql://USER@HOST/NAME with pgvector, of home postgres; empty = that of `store.url`."""
    connections: int = 4
    """To each index in PostgreSQL, at most and while it is asked."""
    directory: str = ""
    """Where the files of indexes lie; empty = indexes in the state directory."""
    purge_s: int = 3600
    """How often a service makes text that was deleted since unrecoverable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSettings:
    """`[indexes.NAME.sources.SOURCE]`: where documents come from."""

    kind: str = "directory"
    """directory | urls | s3."""
    path: str = ""
    """Of directory: it; of urls: a file with one URL a line."""
    include: tuple[str, ...] = ()
    """Of directory: patterns of files, as `*.md`; empty = all."""
    exclude: tuple[str, ...] = ()
    url: str = ""
    """Of s3: the server's; empty = Amazon's."""
    bucket: str = ""
    prefix: str = ""
    region: str = ""
    readers: tuple[str, ...] = ()
    """Principals who may read its documents, as user:NAME, team:NAME, org:NAME; empty = all who
    may ask the index."""
    secret: str = ""
    """env:NAME or file:PATH of what signs deliveries to its webhook; empty = it takes none."""
    fresh_s: int = 0
    """How old the last good sync may be; 0 = as old as it likes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSettings:
    """`[indexes.NAME]`: an index that is there when the service starts."""

    org: str = ""
    """Whose it is; without `team` the installation's own, which administrators see."""
    team: str = ""
    shared: bool = False
    """Every team may search it."""
    embedder: str = ""
    """Name of a model that makes vectors; empty = the only one that is served."""
    chunk_tokens: int = 250
    overlap_tokens: int = 32
    parent_tokens: int = 1000
    """About the size of what may be shown around a chunk; 0 = chunks have no parent."""
    policy: str = "annotate"
    """annotate | strike | retry | refuse | escalate: what becomes of a claim that its source does
    not support."""
    model: str = ""
    """Which answers where a question names none; empty = the only one that is served."""
    budget_tokens: int = 0
    """Of the sources in an answer's prompt; 0 = half of the model's context."""
    k: int = 20
    """Passages that an answer's sources are chosen from."""
    sources: Mapping[str, SourceSettings] = field(default_factory=dict[str, SourceSettings])


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSettings:
    """`[routes.NAME.context]`: questions to the route are answered from an index."""

    index: str = ""
    """Its name; empty = none."""
    org: str = ""
    """Whose it is, as `indexes.NAME.org`."""
    team: str = ""
    k: int = 0
    """0 = as the index says."""
    budget_tokens: int = 0
    """0 = half of the model's context."""
    policy: str = ""
    """Empty = as the index says."""
    style: str = ""
    """How the model is asked: general, quote, slots; empty = quote for sprout, else general."""
    abstain_below: float = 0.0
    """Relevance of what was found, 0 to 1, below which no model is asked; 0 = one always is."""
    rewrite: bool = False
    """Ask the model first for the question as it stands alone, where there are turns before."""
    escalate: str = ""
    """The model that is asked where an answer fails; policy escalate needs it."""
