"""Whatever answers: protocols with their invariants."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.types.events import Event, TokenEvent
from headrace.types.params import SamplingParams
from headrace.types.requests import ChatRequest, CompletionRequest


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
