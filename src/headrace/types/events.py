"""What a backend says while it answers."""

from dataclasses import dataclass
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
