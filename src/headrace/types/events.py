"""What a backend says while it answers."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from headrace.types.usage import Usage


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
    ran_us: int | None = field(default=None, compare=False)
    """On the first of choice 0: for how long the engine had run the request's prompt by then, since
    it left the queue; a preemption's wait is within it."""


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
    ran_s: float = field(default=0.0, compare=False)
    """For how long the backend had worked on the prompt when it said so; 0 = it tells at once, or
    nobody knows."""


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


class CitationVerdict(StrEnum):
    """What a check of a cited claim against its source found."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"  # the source does not say it
    CONTRADICTED = "contradicted"  # it says otherwise: another number, date, name, or the opposite
    MISQUOTED = "misquoted"  # quoted words that do not stand there
    MISPLACED = "misplaced"  # another of the sources says it
    INVENTED = "invented"  # there is no source of that number
    UNCHECKED = "unchecked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A mark in the answer's text, which has been sent, and what was found where it points."""

    document: str
    """Empty where the number is nobody's."""
    start: int
    end: int
    """Of the span that supports the claim best, in characters of the document's text."""
    support: float
    """How well, 0 to 1; comparable between claims."""
    index: int = 0
    source: int = 0
    """The number in the mark."""
    title: str = ""
    quote: str = ""
    """The document's text from `start` to `end`."""
    verdict: CitationVerdict = CitationVerdict.UNCHECKED
    reason: str = ""
    """Why it is not supported, in a sentence."""
    claim_start: int = 0
    claim_end: int = 0
    """What of the choice's text is claimed, in characters of all its text so far."""
    mark_start: int = 0
    mark_end: int = 0
    """Where the mark itself stands; equal = it was struck from the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One choice ended. The last of a stream carries the request's usage."""

    reason: FinishReason
    index: int = 0
    stop: str | int | None = None
    usage: Usage | None = None
    not_in_sources: bool = False
    """The answer is that the sources it was to be made of do not say."""


Event: TypeAlias = Started | TextDelta | ReasoningDelta | ToolCallDelta | Citation | Finished
