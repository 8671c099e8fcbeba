"""An answer that is shown only when its citations hold, and what is done where they do not.

| policy | where an answer fails |
|---|---|
| retry | the same model is told what failed and asked again; then what still fails is struck |
| escalate | another model is asked the same; then what fails of its answer is struck |
| refuse | nothing of it is shown |

Every call is made by a backend that leaves its own leg; the usage in the events is of the answer
that is shown.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from headrace.retrieval.answering.options import WITHHELD, Answering
from headrace.retrieval.answering.styles import StyleName
from headrace.retrieval.answering.told import Telling
from headrace.retrieval.answering.verifying import Verifier
from headrace.types import (
    Backend,
    ChatRequest,
    Citation,
    CitationPolicy,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    Integrity,
    Label,
    Message,
    ReasoningDelta,
    Role,
    Started,
    TextDelta,
    TextPart,
    ToolCallDelta,
)

_Ask = Callable[[Sequence[Event], Sequence[str]], ChatRequest]
"""A failed answer, and what failed → what is asked next."""
_AGAIN = (
    "Your answer has citations that do not hold: {failures}. Answer the question again, from the "
    "sources alone, and cite for each statement the source that says it."
)


class Held:
    """Of one request."""

    def __init__(self, backend: Backend, verifier: Verifier, how: Answering) -> None:
        self._backend = backend
        self._verifier = verifier
        self._how = how

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Events of the answer that is shown."""
        events, failures = await self._tried(self._backend, request)
        if failures and self._how.policy is CitationPolicy.REFUSE:
            request.trail.note("citations", f"the answer is withheld: {failures[0][:300]}")
            for event in _withheld(events):
                yield event
            return
        for backend, asked in self._others(request, events, failures):
            if not failures:
                break
            events, failures = await self._tried(backend, asked(events, failures))
        if not failures:
            for event in events:
                yield event
            return
        request.trail.note("citations", "what does not hold is struck from the last answer")
        strike = request.format.kind is FormatKind.TEXT
        last = Telling(self._verifier, strike=strike)
        async for event in last.told(_replayed(events)):
            yield event

    async def _tried(self, backend: Backend, request: ChatRequest) -> tuple[list[Event], list[str]]:
        """An answer with its citations, and what fails of it."""
        telling = Telling(self._verifier, strike=False)
        events = [event async for event in telling.told(backend.stream(request))]
        telling.note(request)
        return events, telling.failures

    def _others(
        self, request: ChatRequest, events: Sequence[Event], failures: Sequence[str]
    ) -> Iterator[tuple[Backend, _Ask]]:
        """Whom to ask after that, and how: pairs of a backend and a way to make its request."""
        how = self._how
        if not failures:
            return
        if how.policy is CitationPolicy.ESCALATE and how.escalate is not None:
            request.trail.note("citations", f"another model is asked: {failures[0][:300]}")
            yield how.escalate, lambda *_: request
            return
        greedy = request.sampling.temperature == 0.0
        if how.style is StyleName.QUOTE and greedy:
            request.trail.note("citations", "asked again it would say the same: temperature is 0")
            return
        for attempt in range(1, how.retries + 1):
            request.trail.note("citations", f"asked again: {failures[0][:300]}", attempt=attempt)
            yield self._backend, partial(self._again, request)

    def _again(
        self, request: ChatRequest, events: Sequence[Event], failures: Sequence[str]
    ) -> ChatRequest:
        """The request with the failed answer and what is wrong with it; a model that knows one turn
        only draws anew."""
        if self._how.style is StyleName.QUOTE:
            seed = request.sampling.seed
            drawn = None if seed is None else seed + 1
            return replace(request, sampling=replace(request.sampling, seed=drawn))
        said = "".join(e.text for e in events if isinstance(e, TextDelta) and e.index == 0)
        model = Label(integrity=Integrity.MODEL)
        told = _AGAIN.format(failures="; ".join(failures[:5])[:1000])
        return replace(
            request,
            messages=(
                *request.messages,
                Message(role=Role.ASSISTANT, parts=(TextPart(text=said, label=model),)),
                Message(role=Role.USER, parts=(TextPart(text=told, label=model),)),
            ),
        )


def _withheld(events: Iterable[Event]) -> list[Event]:
    """What is shown instead: how it began and ended, and that it is withheld."""
    found: list[Event] = []
    for event in events:
        match event:
            case Started():
                found.append(event)
            case Finished():
                found.append(TextDelta(text=WITHHELD, index=event.index))
                found.append(
                    replace(event, reason=FinishReason.CONTENT_FILTER, not_in_sources=False)
                )
            case TextDelta() | ReasoningDelta() | ToolCallDelta() | Citation():
                pass
    return found


async def _replayed(events: Iterable[Event]) -> AsyncIterator[Event]:
    for event in events:
        if not isinstance(event, Citation):
            yield event
