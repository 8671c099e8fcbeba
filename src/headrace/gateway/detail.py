"""What a trace knows of a request beside its usage record: place in a trace, parameters, marks of
time and, where its content is sampled, what was said.

Invariants: it never holds more of an answer than `max_characters` and a margin; without
`keeps_content` it holds no text and no ids once the request has ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.observe.context import TraceContext
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    ReasoningDelta,
    SamplingParams,
    Started,
    TextDelta,
    ToolCallDelta,
)

MARGIN_CHARACTERS = 512
"""Kept beyond the limit until redaction is over: what it looks for must not be cut in two."""


@dataclass(slots=True)
class Said:
    """One choice of one prompt."""

    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    calls: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """Position of a tool call -> its name and the pieces of its arguments."""
    characters: int = 0


@dataclass(slots=True, kw_only=True)
class Detail:
    """Mutable on purpose: it gathers while the request runs."""

    context: TraceContext
    began_s: float = field(default_factory=time.monotonic)
    keeps_content: bool = False
    max_characters: int = 0
    asked: ChatRequest | CompletionRequest | None = None
    """As decoded; None where the request did not come so far."""
    admitted: SamplingParams | None = None
    marks: dict[str, float] = field(default_factory=dict[str, float])
    """Moment -> seconds since arrival: identified, decoded, rendered, held, first, last."""
    prompt_ids: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Prompt -> its ids, as the model read them."""
    said: dict[tuple[int, int], Said] = field(default_factory=dict[tuple[int, int], Said])
    detokenize: Callable[[Sequence[int]], str] | None = None
    error: str = ""
    """The message of the error that the client saw."""

    def mark(self, moment: str) -> None:
        """It is now."""
        self.marks[moment] = time.monotonic() - self.began_s

    def see(self, prompt: int, event: Event) -> None:
        """Keep what an event says; only where content is kept."""
        match event:
            case Started():
                self.prompt_ids[prompt] = event.prompt_ids
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                said = self.said.setdefault((prompt, event.index), Said())
                if said.characters <= self.max_characters + MARGIN_CHARACTERS:
                    _add(said, event)
            case _:
                pass

    def end(self) -> None:
        """The request has ended: forget what is not to be kept."""
        if not self.keeps_content:
            self.prompt_ids.clear()
            self.said.clear()
            self.error = ""
            self.detokenize = None

    @property
    def size_bytes(self) -> int:
        """About what it holds in memory."""
        if not self.keeps_content:
            return 2048
        asked = 0
        if isinstance(self.asked, ChatRequest):
            parts = (part for message in self.asked.messages for part in message.parts)
            asked = sum(len(getattr(part, "text", "")) for part in parts)
        elif self.asked is not None:
            asked = len(self.asked.prompt)
        ids = sum(len(ids) for ids in self.prompt_ids.values())
        return 2048 + 8 * ids + 2 * asked + 2 * sum(s.characters for s in self.said.values())


def _add(said: Said, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
    match event:
        case TextDelta():
            said.text.append(event.text)
            said.characters += len(event.text)
        case ReasoningDelta():
            said.reasoning.append(event.text)
            said.characters += len(event.text)
        case ToolCallDelta():
            pieces = said.calls.setdefault(event.call, [event.name or ""])
            pieces.append(event.arguments)
            said.characters += len(event.arguments) + len(event.name or "")
