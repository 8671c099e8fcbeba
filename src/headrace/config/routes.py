"""Settings of what answers requests: providers, routes and their rules, data classes."""

from dataclasses import dataclass

from headrace.config.indexes import ContextSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderSettings:
    """`[providers.NAME]`: an API that serves models."""

    kind: str = ""
    """openai | azure | compatible | anthropic | gemini | vertex | bedrock."""
    url: str = ""
    """Empty = the kind's own; azure and compatible have none."""
    key: str = ""
    """env:NAME or file:PATH, never the key itself; a file is read again when it changes."""
    project: str = ""
    """Of vertex."""
    region: str = ""
    """Of vertex and bedrock the cloud's own; of others as `data_classes.NAME.regions` call it."""
    managed: bool = True
    """Somebody else's machines. False = one's own, where a data class may forbid the others."""
    profile: str = ""
    """Of bedrock: in AWS's own files; empty = wherever AWS's tools look."""
    prices: str = ""
    """own = its tokens cost what `headrace spend price` says, else nothing; or the name of a
    provider in `genai-prices`. Empty = the kind's; of `compatible` by its URL: a loopback or
    private address is one's own, any other must be known or have its prices set."""
    continuous_usage: bool = False
    """Of compatible: ask for a running count of tokens (vLLM's `continuous_usage_stats`), so that
    an answer that its client leaves is booked to the token."""
    api_version: str = ""
    """Of azure: for addresses by deployment; empty = Azure's v1 API."""
    connect_timeout_s: float = 10.0
    first_byte_timeout_s: float = 60.0
    """From the request to the first byte of its answer."""
    idle_timeout_s: float = 60.0
    """Between two pieces of an answer."""
    total_timeout_s: float = 600.0
    max_connections: int = 0
    """At once, of each route; 0 = no limit."""
    stream_always: bool = True
    """Of openai, azure and compatible: ask for a stream even where the client did not, so that a
    silent provider is noticed and what an abandoned answer had come to is known. false = ask as
    the client did, which is less work; then only total_timeout_s bounds an answer."""
    attempts: int = 3
    """In all, before the first byte; 1 = never again."""
    breaker_failures: int = 5
    """In a row, after which it is not asked for a while; 0 = always asked."""
    breaker_open_s: float = 10.0
    """The first time; doubled, up to 300, while trials fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleSettings:
    """`[[routes.NAME.rules]]`: every condition that is set must hold; the first rule that matches
    decides. Exactly one of `use`, `answer` and `deny`."""

    name: str = ""
    """As decisions call it; empty = its number."""
    org: tuple[str, ...] = ()
    """One of these; so for every list below."""
    team: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    feature: tuple[str, ...] = ()
    data_class: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    """ISO 639-1 codes, of the last user text; `pip install 'headrace[routing]'`."""
    label: tuple[str, ...] = ()
    """What the route's `classifier` calls the last user text."""
    text: str = ""
    """Regular expression that is found in the last user text."""
    min_prompt_tokens: int = 0
    max_prompt_tokens: int = 0
    """0 = no bound."""
    tools: bool | None = None
    """Whether the request offers tools."""
    images: bool | None = None
    """Whether it has an image."""
    budget_below_usd: str = ""
    """Less than this is left of the tightest budget of the caller, in dollars."""
    use: str = ""
    """A route, or the local model."""
    answer: str = ""
    """The answer itself: no model is asked."""
    deny: str = ""
    """The reason of a refusal (403)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteSettings:
    """`[routes.NAME]`: a model under the name that clients use. Exactly one of `provider`,
    `targets` and `cascade`."""

    provider: str = ""
    """Name of a provider."""
    model: str = ""
    """What the provider calls it; empty = the route's name."""
    context_tokens: int = 0
    """As clients are told; 0 = unknown."""
    max_output_tokens: int = 8192
    """Sent to an API that demands a limit where a request sets none."""
    targets: tuple[str, ...] = ()
    """Routes, or the local model, of which one answers; the others stand in for it."""
    balance: str = "weighted"
    """weighted | least-busy | latency | prefix: which of the `targets`."""
    weights: tuple[float, ...] = ()
    """Of the `targets`, for weighted and prefix; empty = all the same."""
    cascade: tuple[str, ...] = ()
    """Routes, or the local model, small to large: the next where an answer fails the `checks`."""
    checks: tuple[str, ...] = ("empty", "refusal", "format")
    """empty | refusal | cut | format | min_chars:N | logprob:X | matches:REGEX | lacks:REGEX."""
    fallback: tuple[str, ...] = ()
    """Routes, or the local model, asked in order where this one does not answer."""
    slow_after_s: float = 0.0
    """No content by then: the next of `targets` or `fallback` is asked instead; 0 = never."""
    max_running: int = 0
    """Requests at once, of each worker; over it the next is asked instead; 0 = no limit."""
    hedge: str = ""
    """Route, or the local model, that is asked too where this one is late; the first wins."""
    hedge_after_s: float = 0.0
    """How late; 0 = as `hedge_percentile` says."""
    hedge_percentile: float = 0.0
    """Later than this part (0 to 1) of the last requests; 0 = as `hedge_after_s` says."""
    rules: tuple[RuleSettings, ...] = ()
    classifier: str = ""
    """Directory that `headrace route train` wrote."""
    classifier_confidence: float = 0.5
    """Below it no label is believed."""
    cache_ttl_s: int = 0
    """How long an answer is kept for the same request of the same team; 0 = not at all."""
    cache_any: bool = False
    """Keep answers of requests with a temperature and no seed too."""
    cache_hit_price: float = 0.0
    """What a hit costs, as a part of the answer's own price, 0 to 1."""
    context: ContextSettings = ContextSettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRouteSettings:
    """`[embedding_routes.NAME]`: a provider's model that makes vectors, under the name that clients
    use."""

    provider: str = ""
    """Name of a provider of kind openai, azure or compatible."""
    model: str = ""
    """What the provider calls it; empty = the route's name."""
    dimensions: int = 0
    """Of a whole vector; 0 = unknown before the first answer."""
    min_dimensions: int = 0
    """How short a request's `dimensions` may make them; 0 = `dimensions` is refused."""
    max_tokens: int = 0
    """Of an input, as clients are told; 0 = unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataClassSettings:
    """`[data_classes.NAME]`: where requests of this class may go. A request of several classes
    must satisfy all of them."""

    managed: bool = True
    """Whether managed APIs may see it."""
    regions: tuple[str, ...] = ()
    """Regions, or patterns (`eu-*`), it may go to; empty = all. A place of unknown region is in
    none."""
    providers: tuple[str, ...] = ()
    """Providers it may go to, beside the local model; empty = all."""
    cache: bool = True
    """Whether its answers may be kept."""
