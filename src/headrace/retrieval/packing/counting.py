"""What a prompt costs before it is sent.

A local model's prompt is counted by the renderer that will make it. A provider's is counted by the
provider, or bounded from above where it has no such call.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.types import ChatRequest, ToolChoice

_TOKENS_A_MESSAGE = 16
"""More than any known template puts around a message."""
_INLINE_CHARACTERS = 20_000


class Rendering:
    """A `TokenCounter` of a local model: exactly the tokens that its engine will be sent."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template

    @property
    def has_documents(self) -> bool:
        """Whether the template has a place of its own for documents."""
        return any("documents" in source for source in self._template.sources.values())

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        size = sum(len(message.text) for message in request.messages)
        if size <= _INLINE_CHARACTERS:
            return self._counted(request)
        return await asyncio.to_thread(self._counted, request)

    def _counted(self, request: ChatRequest) -> int:
        rendered = render(
            self._tokenizer,
            self._template,
            request.messages,
            tools=() if request.tool_choice is ToolChoice.NONE else request.tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.template_kwargs,
        )
        return len(rendered.ids)


class UpperBound:
    """A `TokenCounter` where nobody counts: no tokenizer makes more tokens of a text than it has
    bytes, so a prompt that is packed by this always fits."""

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        size = _TOKENS_A_MESSAGE
        for message in request.messages:
            size += _TOKENS_A_MESSAGE + sum(_bytes_of(part) for part in message.parts)
        for tool in request.tools:
            size += _TOKENS_A_MESSAGE + _bytes_of(tool)
        return size + (_bytes_of(request.template_kwargs) if request.template_kwargs else 0)


def _bytes_of(value: Any) -> int:
    """Of every text in a value."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_bytes_of(key) + _bytes_of(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(_bytes_of(item) for item in value)
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        names = [name for name in fields if name != "label"]
        return sum(_bytes_of(getattr(value, name)) for name in names)
    return 0 if value is None else 24  # a number, at its longest
