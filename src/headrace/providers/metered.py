"""A real backend, metered: every call of it becomes one `Leg` of its request's `Trail`.

Innermost of all decorators but those that ask the same backend again, so cascades, hedges and
fallbacks bill whatever they call. Invariant: a call adds one leg, however it ends: with the usage
that the backend said; where it was cut short before it said all, with the most that it is known to
have used, and marked `estimated`:

| what is known of a call that was cut short | counts |
|---|---|
| its last word (`Trail.heard`): the local engine's after the cancel, a running count | it |
| of text since that word | its token ids, else its bytes: no tokenizer makes more of them |
| of an answer that was to come all at once | all the tokens that it might have |
| of the prompt, where nothing was said | 0, which whoever pays replaces by what was held |

A backend that goes on past the tokens that its request allows is cut there: what was held for the
request is all that it can cost.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from headrace.errors import DeadlineExceeded, HeadraceError, UpstreamTimeout
from headrace.providers.gathering import gatherer
from headrace.providers.resilience import closing
from headrace.types import (
    Backend,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Embedded,
    Embedder,
    EmbedderCard,
    EmbedRequest,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    SamplingParams,
    Started,
    Target,
    TextDelta,
    ToolCallDelta,
    Trail,
    Usage,
)

_BYTES_A_TOKEN = 5
"""Most text has fewer. Of an answer without token ids or a running count: it is past its limit when
it came in more pieces than it may have tokens and is longer than those would be."""


class Metered:
    """A `Backend` whose calls are legs."""

    def __init__(self, provider: str, model: str, backend: Backend) -> None:
        self.target = Target(provider=provider, model=model)
        self._backend = backend
        self._gather = gatherer(backend)

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        trail = request.trail.fork()
        events = self._backend.stream(replace(request, trail=trail))
        return metered(events, self.target, trail, request.sampling)

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The same events into a list; what is past the request's tokens is cut off it."""
        trail = request.trail.fork()
        book = _Book(self.target, trail, request.sampling)
        found: list[Event] = []
        failed: Exception | None = None
        exceeded = False
        try:
            try:
                await self._gather(replace(request, trail=trail), found)
            except Exception as error:  # noqa: BLE001 - raised again once what came is counted
                failed = error
            finally:
                for event in found:
                    into.append(event)
                    exceeded = book.see(event)
                    if exceeded:
                        break
            if failed is not None and not exceeded:
                raise failed
            into.extend(book.cut())
        except Exception as error:
            book.failed(error)
            raise
        finally:
            book.close()


class MeteredCompletions:
    """A `CompletionBackend` whose calls are legs."""

    def __init__(self, provider: str, model: str, backend: CompletionBackend) -> None:
        self.target = Target(provider=provider, model=model)
        self._backend = backend

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """As `CompletionBackend.complete`."""
        trail = request.trail.fork()
        events = self._backend.complete(replace(request, trail=trail))
        return metered(events, self.target, trail, request.sampling)


class MeteredEmbedder:
    """An `Embedder` whose calls are legs."""

    def __init__(self, provider: str, model: str, embedder: Embedder) -> None:
        self.target = Target(provider=provider, model=model)
        self._embedder = embedder

    @property
    def card(self) -> EmbedderCard:
        return self._embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`."""
        return await self._embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`; a call that failed used nothing that anybody knows of."""
        began = time.monotonic()
        usage, outcome = Usage(), FinishReason.ABORT.value
        try:
            answer = await self._embedder.embed(request)
            usage, outcome = answer.usage, FinishReason.STOP.value
        except HeadraceError as error:
            outcome = error.code
            raise
        finally:
            seconds = time.monotonic() - began
            request.trail.leg(self.target, usage, outcome=outcome, seconds=seconds)
        return answer


async def metered(
    events: AsyncIterator[Event], target: Target, trail: Trail, sampling: SamplingParams
) -> AsyncIterator[Event]:
    """The same events; when they end, in whatever way, a leg.

    Args:
        events: Of one call.
        target: Whose.
        trail: The call's own.
        sampling: With what the call may use.
    """
    book = _Book(target, trail, sampling)
    try:
        async with closing(events):
            async for event in events:
                exceeded = book.see(event)
                yield event
                if exceeded:
                    break
        for finished in book.cut():
            yield finished
    except Exception as error:
        book.failed(error)
        raise
    finally:
        book.close()


class _Book:
    """One call; in the end a leg."""

    __slots__ = ("_began", "_meter", "_outcome", "_target", "_trail")

    def __init__(self, target: Target, trail: Trail, sampling: SamplingParams) -> None:
        self._began = time.monotonic()
        self._target = target
        self._trail = trail
        self._meter = _Meter(trail, sampling, lost=True)
        self._outcome = FinishReason.ABORT.value  # what it is where the call is cancelled

    def see(self, event: Event) -> bool:
        """Whether the call is past what it may have."""
        self._meter.see(event)
        if isinstance(event, Finished) and event.usage is not None:
            self._outcome = event.reason.value
        return self._meter.exceeded

    def cut(self) -> list[Finished]:
        """The ends of a call that was past it and had not said its own."""
        meter, limit = self._meter, self._meter.sampling.max_tokens
        if not meter.exceeded or meter.said is not None:
            return []
        self._outcome = FinishReason.LENGTH.value
        self._trail.note(
            "metering",
            f"{self._target.provider or 'the engine'} went on past the {limit} tokens "
            "that it was asked for and was cut there",
            max_tokens=limit or 0,
        )
        return meter.cut()

    def failed(self, error: Exception) -> None:
        """It ends with this."""
        meter = self._meter
        if not isinstance(error, HeadraceError):
            self._outcome = HeadraceError.code
            meter.lost = False
            return
        self._outcome = error.code
        meter.lost = isinstance(error, DeadlineExceeded | UpstreamTimeout)
        said = getattr(error, "usage", None)
        if isinstance(said, Usage):
            meter.said = said

    def close(self) -> None:
        """It has ended."""
        meter = self._meter
        self._trail.leg(
            self._target,
            meter.usage(),
            outcome=self._outcome,
            seconds=time.monotonic() - self._began,
            # The engine's last word comes after the cancel; what a provider still did, nobody
            # knows, nor whether one that had not answered yet had begun.
            estimated=meter.said is None
            and (meter.started or meter.lost)
            and not (self._trail.heard_all and not self._target.provider),
        )


@dataclass(slots=True)
class _Meter:
    trail: Trail
    sampling: SamplingParams
    said: Usage | None = None
    started: bool = False
    exceeded: bool = False
    prompt_tokens: int = 0
    since: int = 0
    """At most so many tokens came after the backend's last word."""
    counts: dict[int, "_Count"] = field(default_factory=dict[int, "_Count"])
    ended: set[int] = field(default_factory=set[int])
    lost: bool = False
    """It may have been answered, and nobody heard."""

    def see(self, event: Event) -> None:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                self._delta(event)
            case Started():
                self.started = True
                self.prompt_tokens = event.prompt_tokens
            case Finished():
                self.said = event.usage or self.said
                self.ended.add(event.index)
            case _:
                pass

    def cut(self) -> list[Finished]:
        """The ends of all choices that have none; the last has the usage."""
        still = [index for index in range(self.sampling.n) if index not in self.ended]
        usage = self.usage()
        return [
            Finished(
                reason=FinishReason.LENGTH,
                index=index,
                usage=usage if index == still[-1] else None,
            )
            for index in still
        ]

    def usage(self) -> Usage:
        if self.said is not None:
            return self.said
        heard = self.trail.heard
        if self.trail.unseen and heard is None:
            most = (self.sampling.max_tokens or 0) * self.sampling.n
            return Usage(completion_tokens=most if self.lost else 0)
        if heard is None:
            return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.since)
        more = 0 if self.trail.heard_all else self.since
        return replace(heard, completion_tokens=heard.completion_tokens + more)

    def _delta(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        size = len(event.token_ids) or _bytes_of(event)
        self.since = 0 if self.trail.heard_all else self.since + size
        limit = self.sampling.max_tokens
        if limit is None:
            return
        count = self.counts.setdefault(event.index, _Count())
        count.ids += len(event.token_ids)
        count.deltas += 1 if size else 0
        count.size += size
        heard = self.trail.heard
        self.exceeded = (
            count.ids > limit
            or (
                (self.trail.heard_all and heard is not None)
                and heard.completion_tokens > limit * self.sampling.n
            )
            or (count.deltas > limit and count.size > limit * _BYTES_A_TOKEN)
        )


@dataclass(slots=True)
class _Count:
    """Of one choice."""

    ids: int = 0
    deltas: int = 0
    size: int = 0
    """Ids, or bytes where there are none."""


def _bytes_of(event: TextDelta | ReasoningDelta | ToolCallDelta) -> int:
    if isinstance(event, ToolCallDelta):
        return len((event.name or "").encode()) + len(event.arguments.encode())
    return len(event.text.encode())
