"""What the engine is asked for, and the state of each answer while it grows.

A request of `n` choices is a `Group` of `n` `Sequence`s over one prompt. Choice 0 runs the prompt;
the others are held until it is in the cache and then begin as hits, so the prompt is computed once
and booked once.

Invariant of a sequence: its first `computed` tokens have keys and values in `blocks`, at position
`p` in `blocks[p // block_tokens]`; `first_run` never falls and counts the tokens that were run once
or came from the cache, so a row below it is a recomputed one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from headrace.types import Priority, SamplingParams, TokenLogprob, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """One prompt to be continued."""

    id: str
    """Unique among the requests in flight."""
    prompt: tuple[int, ...]
    sampling: SamplingParams
    """`seed` is an int here: whoever makes the request resolves None. `max_tokens` 0 runs the
    prompt and samples nothing, which with `prompt_logprobs` is scoring."""
    salt: str = ""
    """Domain of the prefix cache: requests with different salts never share blocks."""
    deadline_s: float | None = None
    """Absolute, on the engine's clock."""
    eos_ids: tuple[int, ...] = ()
    priority: Priority = Priority.INTERACTIVE

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a choice."""
        eos = () if self.sampling.ignore_eos else self.eos_ids
        return (*eos, *self.sampling.stop_token_ids)


StopPush: TypeAlias = Callable[[tuple[int, ...]], str | None]
"""Takes the next ids of one completion; gives the stop string they complete, if any."""

StopFactory: TypeAlias = Callable[[SamplingParams], StopPush]
"""Makes the watch of one choice; called only for requests with stop strings."""


class State(StrEnum):
    HELD = "held"  # a later choice, until choice 0 has run the prompt
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(kw_only=True, slots=True, eq=False, weakref_slot=True)
class Sequence:
    """One choice of a request. Compared and hashed by identity."""

    group: "Group" = field(repr=False)
    index: int
    state: State
    completion: list[int] = field(default_factory=list[int])
    blocks: list[int] = field(default_factory=list[int])
    """Physical blocks in order; each is referenced once by this table."""
    digests: list[bytes] = field(default_factory=list[bytes], repr=False)
    """Chained digest of each full block of tokens, as far as they were needed."""
    computed: int = 0
    published: int = 0
    """Leading blocks that the prefix cache knows."""
    first_run: int = 0
    prompt_scores: list[TokenLogprob] = field(default_factory=list[TokenLogprob], repr=False)
    """Of prompt tokens 1, 2, …; only choice 0 of a request with `prompt_logprobs`."""
    stop_push: StopPush | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.group.request.prompt) + len(self.completion)

    @property
    def request(self) -> EngineRequest:
        return self.group.request

    @property
    def age_key(self) -> tuple[bool, int, int]:
        """Order of arrival, batch requests after all others; the greatest is the youngest."""
        return (self.group.yields, self.group.arrival, self.index)

    @property
    def yields(self) -> bool:
        """Whether it makes room for whatever is not a batch request."""
        return self.group.yields

    @property
    def samples(self) -> bool:
        """Whether the row of its last known token is to be sampled from."""
        return self.group.max_tokens > 0

    @property
    def scores_prompt(self) -> bool:
        """Whether its prompt's logits are still wanted: then the cache cannot stand in for them."""
        return (
            self.index == 0
            and self.request.sampling.prompt_logprobs is not None
            and len(self.prompt_scores) < len(self.request.prompt) - 1
        )

    @property
    def last_token(self) -> int:
        """The last known one."""
        return self.completion[-1] if self.completion else self.group.request.prompt[-1]

    def tokens(self, start: int, stop: int) -> list[int]:
        """Known tokens from position `start` up to `stop`."""
        prompt = self.group.request.prompt
        size = len(prompt)
        if start >= size:
            return self.completion[start - size : stop - size]
        return [*prompt[start:stop], *self.completion[: max(0, stop - size)]]


@dataclass(kw_only=True, slots=True, eq=False)
class Group:
    """A request in flight and what it has used."""

    request: EngineRequest
    arrival: int
    max_tokens: int
    """Of each choice, resolved."""
    end_ids: tuple[int, ...] = field(init=False)
    """The request's."""
    yields: bool = field(init=False)
    """Of a batch request: younger than all that are none."""
    sequences: list[Sequence] = field(default_factory=list[Sequence], repr=False)
    started: bool = False
    """Its prompt left the queue and is booked; a request that ends before has used nothing."""
    began_s: float = 0.0
    """When that was, on the scheduler's clock."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    recomputed_tokens: int = 0
    compute_us: int = 0
    """Its share of the time of the steps that ran it."""
    kv_byte_us: int = 0
    """Bytes of KV blocks held, times microseconds of steps; a shared block counts for each."""

    def __post_init__(self) -> None:
        self.end_ids = self.request.end_ids
        self.yields = self.request.priority is Priority.BATCH

    @property
    def usage(self) -> Usage:
        """What has been booked so far."""
        return Usage(
            prompt_tokens=len(self.request.prompt) if self.started else 0,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            recomputed_tokens=self.recomputed_tokens,
            compute_us=self.compute_us,
            kv_byte_s=self.kv_byte_us // 1_000_000,
        )


class RowResult(NamedTuple):
    """What a step made of one sequence's rows."""

    token: int | None = None
    """Present where the step ran the sequence's last known token and it samples."""
    logprob: TokenLogprob | None = None
    prompt_scores: tuple[TokenLogprob, ...] = ()
    """Of the next prompt tokens, where they were wanted."""
    failure: str | None = None
    """Why there is no token; the request ends with `error`."""
