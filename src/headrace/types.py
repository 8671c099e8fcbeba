"""The contracts: what a message, a token, a request, an event and a backend are, everywhere.

Frozen, keyword-only, slotted, standard library only. Text arrives from outside as one of these or
as an error, never as a dict (parse, don't validate: the parsers live in `wire`).
"""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Protocol, TypeAlias


class Role(StrEnum):
    """Who speaks. `developer` is OpenAI's newer name for `system`; templates decide on it."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Integrity(StrEnum):
    """How far a span of text may be believed to carry its author's instructions."""

    SYSTEM = "system"  # the operator wrote it
    USER = "user"  # the caller wrote it
    MODEL = "model"  # a model wrote it
    UNTRUSTED = "untrusted"  # a tool, a document, the web


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Trust label of a span: what it may command, who may read it, where it came from."""

    integrity: Integrity = Integrity.USER
    readers: frozenset[str] | None = None
    """Principals who may see it; None = everyone who may see the conversation."""
    origins: frozenset[str] = frozenset()
    """Documents, tools or URLs it derives from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    text: str
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePart:
    media_type: str
    data: bytes | None = None
    url: str | None = None
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioPart:
    media_type: str
    data: bytes
    label: Label = Label()


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentPart:
    """A source put before the model; cited by `id`."""

    id: str
    text: str
    """Empty where the document is `data` or at `url`."""
    title: str | None = None
    media_type: str = "text/plain"
    data: bytes | None = None
    """A file (a PDF) that only a provider can read."""
    url: str | None = None
    label: Label = Label(integrity=Integrity.UNTRUSTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallPart:
    id: str
    name: str
    arguments: str
    """JSON text exactly as the model wrote it; it may be invalid."""
    label: Label = Label(integrity=Integrity.MODEL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResultPart:
    call_id: str
    text: str
    name: str | None = None
    is_error: bool = False
    label: Label = Label(integrity=Integrity.UNTRUSTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningPart:
    text: str
    signature: str = ""
    """A provider's proof that it wrote this; sent back to it unchanged, read by nobody else."""
    redacted: bool = False
    """The text is withheld: `signature` holds it enciphered."""
    label: Label = Label(integrity=Integrity.MODEL)


Part: TypeAlias = (
    TextPart | ImagePart | AudioPart | DocumentPart | ToolCallPart | ToolResultPart | ReasoningPart
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined with nothing between them."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON Schema of the arguments."""
    strict: bool = False


class ToolChoice(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    """At least one call: of any tool, or of `ChatRequest.tool_name`."""


class FormatKind(StrEnum):
    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseFormat:
    kind: FormatKind = FormatKind.TEXT
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningParams:
    """How much a model may think before it answers; None = the model's own default."""

    enabled: bool | None = None
    effort: str | None = None
    """none | minimal | low | medium | high | xhigh | max; each model has some of them."""
    budget_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How logits become tokens. Order: logit_bias, repetition, frequency and presence penalty,
    min_tokens, temperature, top_k, top_p, min_p; then one draw.
    """

    temperature: float = 1.0
    """0 = greedy (argmax; the lowest id wins a tie)."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    """Times the count in the completion (OpenAI); the prompt does not count."""
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    """Multiplicative over prompt and completion (CTRL, arXiv 1909.05858); 1 = off."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    """None = drawn by the server and reported. The draw at a position is a pure function of
    (seed, choice index, position), so it does not depend on the batch or on preemption."""
    n: int = 1
    max_tokens: int | None = None
    """None = up to the end of the context."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    """Keep the matched stop string in the text (vLLM's include_stop_str_in_output)."""
    logprobs: int | None = None
    """None = none; k >= 0 = the sampled token's log-probability and the k best. They are of the
    model's own distribution, before any parameter above (vLLM's raw_logprobs)."""
    prompt_logprobs: int | None = None
    given: frozenset[str] = frozenset()
    """Names of the fields the caller set; the model's generation_config may fill the others."""


class Priority(StrEnum):
    """Who goes first where not all can go at once."""

    INTERACTIVE = "interactive"  # somebody waits for it
    BATCH = "batch"  # it takes what the others leave, and gives it back when they need it


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, as far as it is known."""

    key_id: str = "anonymous"
    tenant: str = ""
    """Domain of the prefix cache: callers of different tenants never share blocks."""
    org: str = ""
    team: str = ""
    user: str = ""
    feature: str = ""
    """What the request is for, as its key may say."""
    data_classes: frozenset[str] = frozenset()
    """What kinds of data it carries: they forbid places (`headrace.providers.residency`)."""
    role: str = ""
    """What it may administer: admin, org_admin, team_admin or member; empty = nothing."""
    models: frozenset[str] = frozenset()
    """Names it may use; empty = all."""
    routes: frozenset[str] = frozenset()
    """Paths it may call; empty = all."""
    person: bool = False
    """`user` came by a session or an issuer's token; `key_id` then names that, not a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Every token booked once. All counts are tokens; sums over the `n` choices of a request."""

    prompt_tokens: int = 0
    """Whole prompt, counted once however many choices share it; includes `cached_tokens`."""
    cached_tokens: int = 0
    """Prompt tokens whose KV came from the prefix cache; part of `prompt_tokens`."""
    cache_write_tokens: int = 0
    """Prompt tokens that a provider put into its cache and bills apart; part of `prompt_tokens`,
    in no other count."""
    completion_tokens: int = 0
    """Sampled and kept, of all choices, end-of-sequence token included."""
    reasoning_tokens: int = 0
    """Part of `completion_tokens` inside reasoning marks."""
    drafted_tokens: int = 0
    """Proposed by speculation, in no other count."""
    rejected_tokens: int = 0
    """Drafted and not kept; part of `drafted_tokens`."""
    recomputed_tokens: int = 0
    """Run through the model again after a preemption or a fork; in no other count, never billed."""
    compute_us: int = field(default=0, compare=False)
    """Microseconds of the engine's steps, each step's time shared among its sequences by the tokens
    that they ran in it. No count of tokens, and not the same twice."""
    kv_byte_s: int = field(default=0, compare=False)
    """KV cache held, bytes times seconds. As `compute_us`."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of several, field by field."""
    several = list(usages)
    if len(several) == 1:
        return several[0]
    sums = dict.fromkeys(_COUNTS, 0)
    for usage in several:
        for name in _COUNTS:
            sums[name] += getattr(usage, name)
    return Usage(**sums)


_COUNTS = tuple(item.name for item in fields(Usage))


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One model that may be asked: whose it is, and its name there."""

    provider: str
    """As the settings name it; empty = the local engine."""
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """One decision about a request: a sentence for people, facts for programs."""

    hop: str
    """Who decided: router, cache, retry, breaker, fallback, admission, template, ..."""
    text: str
    facts: Mapping[str, str | int | float | bool] = field(
        default_factory=dict[str, str | int | float | bool]
    )
    at_s: float = field(default=0.0, compare=False)
    """When, on the monotonic clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """One call of one real backend on a request's behalf: what is paid for."""

    provider: str
    """As the settings name it; empty = the local engine."""
    model: str
    """The provider's own name of it."""
    usage: Usage
    outcome: str
    """A finish reason, or an error's code."""
    seconds: float
    estimated: bool = False
    """Cut short before the backend said what it used: the usage is what is known to be at most."""
    ended_s: float = field(default=0.0, compare=False)
    """When, on the monotonic clock."""


@dataclass(kw_only=True, slots=True, eq=False)
class Trail:
    """What became of one request, gathered on its way; mutable, and read when it has ended."""

    notes: list[Note] = field(default_factory=list[Note])
    """In the order of the decisions."""
    legs: list[Leg] = field(default_factory=list[Leg])
    """In the order in which they ended."""
    cache: str = ""
    """hit | miss; empty = no cache was asked."""
    traceparent: str = ""
    """The request as W3C Trace Context names it, for the headers of calls on its behalf."""
    tracestate: str = ""
    """What other tracing systems want passed on beside it."""
    cache_asked: str = ""
    """What the client says to the cache of answers: bypass | refresh; empty = nothing."""
    hit_ppm: int = 0
    """What a hit costs, in millionths of what its answer did: `kept`."""
    kept: tuple[Leg, ...] = ()
    """Of a hit: the calls that once made the answer."""
    heard: Usage | None = None
    """What the backend has said so far that the call of this trail used: for calls cut short."""
    heard_all: bool = False
    """Whether that counts everything that was delivered until now."""
    unseen: bool = False
    """The answer comes all at once: of a call cut short any part may have been written."""

    def fork(self) -> "Trail":
        """One call's own trail: the same notes and legs, another `heard`."""
        return Trail(
            notes=self.notes,
            legs=self.legs,
            traceparent=self.traceparent,
            tracestate=self.tracestate,
        )

    def note(self, hop: str, text: str, **facts: str | int | float | bool) -> None:
        """Add a decision."""
        self.notes.append(Note(hop=hop, text=text, facts=facts, at_s=time.monotonic()))

    def leg(
        self,
        target: Target,
        usage: Usage,
        *,
        outcome: str,
        seconds: float,
        estimated: bool = False,
    ) -> None:
        """Add a call that ended."""
        self.legs.append(
            Leg(
                provider=target.provider,
                model=target.model,
                usage=usage,
                outcome=outcome,
                seconds=seconds,
                estimated=estimated,
                ended_s=time.monotonic(),
            )
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    tool_name: str | None = None
    """With `ToolChoice.REQUIRED`: the one tool to call."""
    parallel_tool_calls: bool = True
    """False = at most one call in an answer."""
    sampling: SamplingParams = SamplingParams()
    format: ResponseFormat = ResponseFormat()
    reasoning: ReasoningParams = ReasoningParams()
    prompt_cache: str = ""
    """5m | 1h: ask a provider that caches prompts only on demand to keep this one so long. A local
    engine caches every prefix anyway."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Extra variables for the chat template (`enable_thinking`)."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    deadline_s: float | None = None
    """Seconds from now until the request ends with `deadline`; None = no limit."""
    priority: Priority = Priority.INTERACTIVE
    streamed: bool = field(default=True, compare=False)
    """False = nobody looks at parts: a backend may come with everything at its end."""
    caller: Caller = Caller()
    trace: str = ""
    """Request id, in logs, metrics exemplars and the answer's `id`."""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)
    """Where everybody on its way says what he decided; part of no comparison and no cache key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionRequest:
    """A raw prompt, text or ids, with no template around it."""

    model: str
    prompt: str | tuple[int, ...]
    echo: bool = False
    add_special_tokens: bool = True
    """Text prompts only: begin with the tokenizer's BOS where it has one."""
    sampling: SamplingParams = SamplingParams()
    deadline_s: float | None = None
    priority: Priority = Priority.INTERACTIVE
    caller: Caller = Caller()
    trace: str = ""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)
    """As in `ChatRequest`."""


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-sequence, stop string or stop id
    LENGTH = "length"  # max_tokens or the context's end
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ABORT = "abort"  # the client left
    DEADLINE = "deadline"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one token, with the best alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEvent:
    """What an engine says about one choice: new ids, in order, and at the end how it ended."""

    index: int = 0
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """As long as `tokens` where asked for, else empty."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """On choice 0's first event where asked for; entry i scores prompt token i, entry 0 is None."""
    finish: FinishReason | None = None
    stop: str | int | None = None
    """The stop string or id that ended the choice."""
    usage: Usage | None = None
    """The whole request's; on the event that ends its last choice."""
    error: str | None = None
    """Beside `finish` error: what went wrong, fit for the caller's eyes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenText:
    """One token as a client sees it: its bytes, its log-probability, its best rivals."""

    token: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """First event: the request was admitted and what was made of it."""

    id: str
    model: str
    created_s: int
    prompt_tokens: int
    prompt_ids: tuple[int, ...] = ()
    seed: int | None = None
    """What was drawn or asked for; None where a provider does not say."""
    system_fingerprint: str = ""
    prompt_logprobs: tuple[TokenText | None, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    text: str
    """May be empty while ids are held back (split UTF-8, a possible stop string)."""
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenText, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningDelta:
    text: str
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenText, ...] = ()
    signature: str = ""
    """As in `ReasoningPart`; it ends the piece of reasoning that it signs."""
    redacted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallDelta:
    """A piece of a call; `id` and `name` come whole on the first piece, `arguments` in parts."""

    call: int
    """Position of the call within its choice, from 0."""
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenText, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    document: str
    start: int
    end: int
    support: float
    index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One choice ended. The last of a stream carries the request's usage."""

    reason: FinishReason
    index: int = 0
    stop: str | int | None = None
    usage: Usage | None = None


Event: TypeAlias = Started | TextDelta | ReasoningDelta | ToolCallDelta | Citation | Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check or policy decided, and why."""

    allowed: bool
    rule: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """An immutable release of anything that changes behaviour."""

    kind: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a client may know of a served model."""

    name: str
    context_tokens: int
    created_s: int
    fingerprint: str = ""


class Backend(Protocol):
    """Whatever answers a chat request: engine, provider, cache, guard, retrieval, agent, router.

    Invariants: the first event is `Started`; each choice ends with exactly one `Finished`, the last
    of which carries the usage; closing the generator cancels the request and frees what it held; an
    error is raised, as a `HeadraceError`, from the generator.
    """

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]: ...


class CompletionBackend(Protocol):
    """Answers a raw prompt, with `Backend`'s invariants."""

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]: ...


class TokenCounter(Protocol):
    """Counts a conversation's tokens as the model itself will."""

    async def count(self, request: ChatRequest) -> int: ...


class TokenBackend(Protocol):
    """Ids in, ids out: roll-outs, likelihood evaluation, scoring."""

    def generate(
        self, prompt: Sequence[int], sampling: SamplingParams
    ) -> AsyncIterator[TokenEvent]: ...

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """Natural-log probability of each token given those before it; the first is 0."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderCard:
    """What a client may know of a model that makes vectors."""

    name: str
    dimensions: int
    """Of a whole vector; 0 = not known before the first answer (a provider's)."""
    max_tokens: int
    """Longest input, its marks and prompt counted; 0 = only its provider knows."""
    created_s: int
    fingerprint: str = ""
    """Equal fingerprints give equal vectors; vectors of different ones must not be compared."""
    min_dimensions: int = 0
    """Vectors may be cut down to so many numbers; 0 = not at all."""
    prompts: tuple[str, ...] = ()
    """Names that `EmbedRequest.prompt` may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRequest:
    """Texts to become vectors, all of one kind."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts, or ids exactly as the model is to read them: no mark or prompt is added to those."""
    prompt: str = ""
    """What the texts are, for models that want to know: one of the card's `prompts`, as a rule
    `query` or `passage`; empty = the model's own default."""
    dimensions: int | None = None
    """Cut vectors to so many numbers and normalize again; None = whole."""
    truncate: bool = False
    """Cut inputs that are too long, and say which; False = refuse them."""
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    caller: Caller = Caller()
    trace: str = ""
    trail: Trail = field(default_factory=Trail, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Vectors in the order of the inputs."""

    data: bytes
    """float32, little-endian, one row of `dimensions` numbers after the other."""
    dimensions: int
    usage: Usage
    """`prompt_tokens` as the model read them: marks, prompts, and no more than was kept."""
    truncated: tuple[int, ...] = ()
    """Positions of the inputs that were cut; never any but where `truncate` allowed it."""

    @property
    def count(self) -> int:
        return len(self.data) // (4 * self.dimensions)

    def row(self, index: int) -> "memoryview[float]":
        """One vector, as a view of C floats."""
        size = 4 * self.dimensions
        return memoryview(self.data)[index * size : (index + 1) * size].cast("f")


class Embedder(Protocol):
    """Whatever makes vectors: the engine, a provider.

    Invariants: an input's vector depends on that input, the prompt and the dimensions alone, not
    on its neighbours (in the engine bit for bit); nothing is truncated that the request did not
    allow, and what was is said; cancelling the call cancels the work.
    """

    @property
    def card(self) -> EmbedderCard: ...

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """Tokens of each input as `embed` would bill it: exactly where the model is ours, else at
        least so many. Raises what `embed` would raise of the inputs.
        """
        ...

    async def embed(self, request: EmbedRequest) -> Embedded:
        """The vectors.

        Raises:
            ContextLengthExceeded: An input that is too long; names it, its length and the limit.
            InvalidParameter, UnsupportedParameter: A prompt or dimensions the model does not have.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One collected answer."""

    index: int
    text: str
    reasoning: str
    tool_calls: tuple[ToolCallPart, ...]
    finish: FinishReason
    stop: str | int | None
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenText, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """A whole answer: what `collect` makes of a stream."""

    started: Started
    choices: tuple[Choice, ...]
    usage: Usage


async def collect(stream: AsyncIterator[Event]) -> Collected:
    """Fold a stream into the answer it spells; not streaming is this and nothing else.

    Raises: RuntimeError where the stream breaks `Backend`'s invariants.
    """
    started: Started | None = None
    usage: Usage | None = None
    pieces: dict[int, _Pieces] = {}
    async for event in stream:
        match event:
            case Started():
                started = event
            case Finished():
                pieces.setdefault(event.index, _Pieces()).finished = event
                usage = event.usage or usage
            case Citation():
                pass
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                pieces.setdefault(event.index, _Pieces()).add(event)
    if started is None or usage is None:
        raise RuntimeError("stream ended without Started or without usage")
    choices = tuple(pieces[index].choice(index) for index in sorted(pieces))
    return Collected(started=started, choices=choices, usage=usage)


@dataclass(slots=True)
class _Pieces:
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenText] = field(default_factory=list[TokenText])
    finished: Finished | None = None

    def add(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        self.token_ids.extend(event.token_ids)
        self.logprobs.extend(event.logprobs)
        match event:
            case TextDelta():
                self.text.append(event.text)
            case ReasoningDelta():
                self.reasoning.append(event.text)
            case ToolCallDelta():
                call = self.calls.setdefault(event.call, [event.id or "", event.name or ""])
                call.append(event.arguments)

    def choice(self, index: int) -> Choice:
        if self.finished is None:
            raise RuntimeError(f"choice {index} never finished")
        return Choice(
            index=index,
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(
                ToolCallPart(id=call[0], name=call[1], arguments="".join(call[2:]))
                for _, call in sorted(self.calls.items())
            ),
            finish=self.finished.reason,
            stop=self.finished.stop,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
        )
