"""How a route answers from its sources."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from headrace.retrieval.answering.bars import Bars
from headrace.retrieval.answering.styles import StyleName
from headrace.retrieval.answering.verifying import Judge
from headrace.retrieval.packing.sources import PackOptions
from headrace.types import (
    Backend,
    ChatRequest,
    CitationPolicy,
    Filter,
    IndexOwner,
    SearchRequest,
    SearchResult,
    SourceDocument,
    TokenCounter,
)

Search = Callable[[SearchRequest], Awaitable[SearchResult]]
Fetch = Callable[[str], Awaitable[SourceDocument | None]]
"""A document whole, by its id; None where it is not there, or not for these eyes."""
Rewrite = Callable[[ChatRequest], Awaitable[str]]
"""A conversation → its last question as it stands alone."""
Compress = Callable[[SearchResult, str], Awaitable[SearchResult]]
"""What was found → only what of it speaks of the question."""

WITHHELD = "An answer was made and is withheld: its citations do not hold."
"""What policy refuse says instead of an answer that failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering:
    """Of one index and one model. What has a default is a choice; the rest is where things are."""

    index: str
    search: Search
    fetch: Fetch | None = None
    """None = parents are not shown, nor neighbours joined across white space."""
    principals: frozenset[str] | None = frozenset()
    """As `SearchRequest.principals`."""
    filter: Filter | None = None
    owner: IndexOwner = field(default_factory=IndexOwner)
    """Whose the index is."""
    k: int = 20
    style: StyleName = StyleName.GENERAL
    """Of a model that `styles` does not name."""
    styles: Mapping[str, StyleName] = field(default_factory=dict[str, StyleName])
    """A model by its name in the request → how it is asked."""
    policy: CitationPolicy = CitationPolicy.ANNOTATE
    escalate: Backend | None = None
    """Who is asked where an answer fails and the policy is escalate."""
    retries: int = 1
    """How often the same model is asked again where the policy is retry."""
    context_tokens: int = 0
    """Of the model; 0 = not known."""
    budget_tokens: int = 0
    """That sources may add to the prompt; 0 = half of the context."""
    answer_tokens: int = 512
    """Left for an answer that does not say how long it may be; a quarter of the context at most."""
    counter: TokenCounter | None = None
    """None = nobody counts, and bytes bound it."""
    packing: PackOptions = field(default_factory=PackOptions)
    bars: Bars = field(default_factory=Bars)
    judge: Judge | None = None
    rewrite: Rewrite | None = None
    """None = the last turn is the question as it stands."""
    compress: Compress | None = None
    abstain_below: float | None = None
    """Answer that the sources do not say, without asking the model, where `headrace.retrieval.
    answering.abstaining.relevance` is below; None = always ask."""
