"""Who asks, what it used, and what became of it on its way."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """A document that a model was shown on a request's behalf."""

    org: str
    """Whose the index is, as `headrace.types.IndexOwner`."""
    team: str
    index: str
    document: str
    seen_s: int = field(default=0, compare=False)
    """When it was looked for, Unix time: what became of it before is not what was shown."""


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

    quotes: list[Quote] = field(default_factory=list[Quote])
    """What its answer may quote: where one of these goes, what is kept of the request goes too."""
    continues: list[str] = field(default_factory=list[str])
    """Requests whose answers are part of this one's conversation: what they quote, it may too."""

    def fork(self) -> "Trail":
        """One call's own trail: the same notes and legs, another `heard`."""
        return Trail(
            notes=self.notes,
            legs=self.legs,
            quotes=self.quotes,
            continues=self.continues,
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
