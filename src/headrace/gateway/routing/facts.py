"""What rules may know of a request; each fact is found out when a rule first asks for it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from headrace.errors import HeadraceError
from headrace.types import (
    AudioPart,
    Caller,
    ChatRequest,
    DocumentPart,
    ImagePart,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

_INLINE_CHARACTERS = 4096
_BYTES_PER_TOKEN = 4
"""Of English in the vocabularies of large models; only where no renderer is at hand."""
_READ_CHARACTERS = 20_000
"""Of the last user text: language and label need no more, and expressions should not read it."""
_SURE = 0.5
"""Below it py3langid's guess is no language: a few words could be anybody's."""


class Label(NamedTuple):
    """What a classifier says of a text."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where facts come from that are not in the request itself."""

    render_tokens: Callable[[ChatRequest], int] | None = None
    """Counts with the local model's renderer; None = estimated from bytes."""
    budget_left: Callable[[Caller], Awaitable[int | None]] | None = None
    """Nano-dollars of the tightest budget; None = there is no budget, or nobody knows."""
    identify: Callable[[str], tuple[str, float]] | None = None
    """Language and confidence."""
    classify: Callable[[str], Label] | None = None


class Facts:
    """Of one request."""

    def __init__(self, request: ChatRequest, sources: Sources) -> None:
        self.request = request
        self._sources = sources
        self._text: str | None = None
        self._tokens: int | None = None
        self._language: str | None = None
        self._label: Label | None = None
        self._budget: tuple[int | None] | None = None

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.request.caller

    @property
    def text(self) -> str:
        """The last user text, or its beginning."""
        if self._text is None:
            said = (m.text for m in reversed(self.request.messages) if m.role is Role.USER)
            self._text = next(said, "")[:_READ_CHARACTERS]
        return self._text

    @property
    def tools(self) -> bool:
        """Whether tools are offered."""
        return bool(self.request.tools)

    @property
    def images(self) -> bool:
        """Whether there is an image in any message."""
        return any(isinstance(p, ImagePart) for m in self.request.messages for p in m.parts)

    @property
    def language(self) -> str:
        """ISO 639 code of the last user text; empty = unsure."""
        if self._language is None:
            if self._sources.identify is None or not self.text.strip():
                self._language = ""
            else:
                code, sure = self._sources.identify(self.text)
                self._language = code if sure >= _SURE else ""
        return self._language

    @property
    def label(self) -> Label:
        """What the route's classifier calls the last user text."""
        if self._label is None:
            classify = self._sources.classify
            self._label = Label("", 0.0) if classify is None else classify(self.text)
        return self._label

    async def prompt_tokens(self) -> int:
        """Length of the prompt: the local model's own count, else an estimate from bytes."""
        if self._tokens is None:
            self._tokens = await self._counted()
        return self._tokens

    async def budget_left(self) -> int | None:
        """Nano-dollars that the tightest budget of the caller has left; None = no such limit."""
        if self._budget is None:
            find = self._sources.budget_left
            self._budget = (None if find is None else await find(self.caller),)
        return self._budget[0]

    async def _counted(self) -> int:
        render = self._sources.render_tokens
        if render is None:
            return estimated_tokens(self.request)
        try:
            size = sum(len(message.text) for message in self.request.messages)
            if size <= _INLINE_CHARACTERS:
                return render(self.request)
            return await asyncio.to_thread(render, self.request)
        except HeadraceError:  # a template that refuses; another model's may not
            return estimated_tokens(self.request)


def estimated_tokens(request: ChatRequest) -> int:
    """About as many tokens as a large model makes of a conversation's text."""
    size = sum(len(f"{t.name}{t.description or ''}{t.parameters}") for t in request.tools)
    for message in request.messages:
        for part in message.parts:
            match part:
                case TextPart() | ReasoningPart() | ToolResultPart() | DocumentPart():
                    size += len(part.text.encode())
                case ToolCallPart():
                    size += len(f"{part.name}{part.arguments}".encode())
                case ImagePart() | AudioPart():
                    pass  # what they count only their model knows
    return -(-size // _BYTES_PER_TOKEN)
