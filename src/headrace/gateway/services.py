"""What the gateway is built from: models, keys, health, metrics, limits, other applications."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.codec import TextCodec
from headrace.gateway.delivery_queue import DeliveryQueue
from headrace.gateway.file_store import FileStore
from headrace.gateway.flight import DetailSink
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import Keys
from headrace.gateway.ledger import Ledger
from headrace.gateway.load import Load
from headrace.gateway.prices import Prices
from headrace.gateway.stored import StoredResponses
from headrace.gateway.traces import Traces
from headrace.observe.gauges import BudgetLeft, SourceAge
from headrace.observe.metrics import EngineStats, Metrics
from headrace.observe.usage import UsageSink
from headrace.providers.residency import Residency
from headrace.types import (
    Backend,
    CompletionBackend,
    Embedder,
    Indexes,
    ModelCard,
    Target,
    TokenCounter,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One model under one name."""

    card: ModelCard
    chat: Backend
    completions: CompletionBackend | None = None
    """None = it answers conversations only."""
    codec: TextCodec | None = None
    """None = its tokens are a provider's business."""
    counter: TokenCounter | None = None
    """Counts a prompt where there is no codec; None = nobody can."""
    calls: int = 1
    """The most calls of candidates that one request may be billed for."""
    candidates: tuple[Target, ...] = ()
    """Every model that answering may call; the dearest of as many `calls` are held for. Empty =
    this one, one's own."""
    max_output_tokens: int = 0
    """Of an answer whose request sets no limit, where a budget has to be able to hold it; 0 = up to
    the end of the context."""
    added_tokens: int = 0
    """The most that its own context adds to a prompt."""
    breaker: Callable[[], str] | None = None
    """The state of the breaker before its own provider; None = there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedEmbedder:
    """One model that makes vectors, under one name."""

    embedder: Embedder
    target: Target
    """Whose price is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Started: the process is past its start-up. Ready: it takes requests now."""

    started: bool = True
    ready: bool = True
    reason: str = ""
    """Why not ready."""
    detail: str = ""
    """What an operator should look at, though requests are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a client may make the gateway hold, and for how long."""

    max_body_bytes: int = 32 << 20
    body_s: float = 60.0
    """The whole body must have come by then."""
    send_s: float = 60.0
    """A client that reads nothing for so long has left."""
    max_unsent_bytes: int = 256 << 10
    """Of one stream, encoded and not yet sent; past it the backend waits."""


def always_ready() -> Health:
    """The health of a service that needs no start-up."""
    return Health()


async def no_engine() -> EngineStats | None:
    """The stats of a service without an engine of its own."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Everything that a request may meet."""

    models: Mapping[str, Served]
    embedders: Mapping[str, ServedEmbedder] = field(default_factory=dict[str, ServedEmbedder])
    """Models that make vectors; no name is in both."""
    keys: Keys | None = None
    """None = no key is asked for; only where the service listens on loopback."""
    ledger: Ledger | None = None
    """None = nothing is limited or booked."""
    prices: Prices | None = None
    """Where there is a ledger."""
    residency: Residency = field(default_factory=Residency)
    """Where requests of which data class may go."""
    files: FileStore | None = None
    """None = there is no store to keep any."""
    batches: BatchQueue | None = None
    deliveries: DeliveryQueue | None = None
    """None = there is no store for them."""
    load: Load = field(default_factory=Load)
    """What is being answered now."""
    responses: StoredResponses | None = None
    """None = answers are not kept."""
    indexes: Indexes | None = None
    """None = there is no retrieval here."""
    health: Callable[[], Health] = always_ready
    metrics: Metrics = field(default_factory=Metrics)
    engine_stats: Callable[[], Awaitable[EngineStats | None]] = no_engine
    """Asked at each view of /metrics."""
    budgets: Callable[[], Awaitable[Sequence[BudgetLeft]]] | None = None
    """So too; None = there are no limits."""
    sources: Callable[[], Awaitable[Sequence[SourceAge]]] | None = None
    """So too; None = there are no indexes."""
    sinks: tuple[UsageSink, ...] = ()
    """Get every usage record, beside the metrics."""
    traces: Traces | None = None
    """None = none are kept."""
    detail_sinks: tuple[DetailSink, ...] = ()
    """Get every record with its detail; `traces` is one of them."""
    limits: Limits = Limits()
    allowed_hosts: frozenset[str] = frozenset()
    """Names that a `Host` header may have beside loopback ones, where no key is asked for."""
    extra: Mapping[str, ASGIApp] = field(default_factory=dict[str, ASGIApp])
    """Path -> application for it and, where it ends in a slash, for all below it; `/` is only
    itself. No key is asked for here."""
