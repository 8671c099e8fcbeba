"""A real backend, metered: every call of it becomes one `Leg` of its request's `Trail`.

Innermost of all decorators but those that ask the same backend again, so cascades, hedges and
fallbacks bill whatever they call. Invariant: a call adds one leg, however it ends: with the usage
that the backend said; where it was cut short before it said any, with the most that is known to
have been used, and marked `estimated`.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from headrace.errors import HeadraceError
from headrace.providers.resilience import closing
from headrace.types import (
    Backend,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    Target,
    TextDelta,
    ToolCallDelta,
    Trail,
    Usage,
)


class Metered:
    """A `Backend` whose calls are legs."""

    def __init__(self, provider: str, model: str, backend: Backend) -> None:
        self.target = Target(provider=provider, model=model)
        self._backend = backend

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        return metered(self._backend.stream(request), self.target, request.trail)


class MeteredCompletions:
    """A `CompletionBackend` whose calls are legs."""

    def __init__(self, provider: str, model: str, backend: CompletionBackend) -> None:
        self.target = Target(provider=provider, model=model)
        self._backend = backend

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """As `CompletionBackend.complete`."""
        return metered(self._backend.complete(request), self.target, request.trail)


async def metered(
    events: AsyncIterator[Event], target: Target, trail: Trail
) -> AsyncIterator[Event]:
    """The same events; when they end, in whatever way, a leg."""
    began = time.monotonic()
    meter = _Meter()
    outcome = FinishReason.ABORT.value  # what it is where the generator is closed
    try:
        async with closing(events):
            async for event in events:
                meter.see(event)
                if isinstance(event, Finished) and event.usage is not None:
                    outcome = event.reason.value
                yield event
    except HeadraceError as error:
        outcome = error.code
        said = getattr(error, "usage", None)
        if isinstance(said, Usage):
            meter.said = said
        raise
    except Exception:
        outcome = HeadraceError.code
        raise
    finally:
        trail.leg(
            target,
            meter.usage(),
            outcome=outcome,
            seconds=time.monotonic() - began,
            estimated=meter.said is None and meter.started,
        )


@dataclass(slots=True)
class _Meter:
    said: Usage | None = None
    started: bool = False
    prompt_tokens: int = 0
    delivered: dict[int, int] = field(default_factory=dict[int, int])

    def see(self, event: Event) -> None:
        match event:
            case Started():
                self.started = True
                self.prompt_tokens = event.prompt_tokens
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                before = self.delivered.get(event.index, 0)
                self.delivered[event.index] = before + len(event.token_ids)
            case Finished():
                self.said = event.usage or self.said
            case _:
                pass

    def usage(self) -> Usage:
        return self.said or Usage(
            prompt_tokens=self.prompt_tokens, completion_tokens=sum(self.delivered.values())
        )
