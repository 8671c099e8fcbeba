"""A stream of events folded into the answer that it spells."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from headrace.types.content import ToolCallPart
from headrace.types.events import (
    Citation,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenText,
    ToolCallDelta,
)
from headrace.types.usage import Usage


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
    citations: tuple[Citation, ...] = ()
    """In the order of their marks."""
    not_in_sources: bool = False
    """As `Finished` has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """A whole answer: what `collect` makes of a stream."""

    started: Started
    choices: tuple[Choice, ...]
    usage: Usage


async def collect(stream: AsyncIterator[Event]) -> Collected:
    """Fold a stream into the answer it spells; not streaming is this and nothing else.

    Raises: As `fold`.
    """
    return fold([event async for event in stream])


def fold(events: Iterable[Event]) -> Collected:
    """As `collect`, of events that are all there.

    Raises: RuntimeError where they break `Backend`'s invariants.
    """
    started: Started | None = None
    usage: Usage | None = None
    pieces: dict[int, _Pieces] = {}
    for event in events:
        match event:
            case Started():
                started = event
            case Finished():
                pieces.setdefault(event.index, _Pieces()).finished = event
                usage = event.usage or usage
            case Citation():
                pieces.setdefault(event.index, _Pieces()).citations.append(event)
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
    citations: list[Citation] = field(default_factory=list[Citation])
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
            citations=tuple(self.citations),
            not_in_sources=self.finished.not_in_sources,
        )
