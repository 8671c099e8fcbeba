"""An answer that no model writes, as a well-formed stream; it has no leg and costs nothing."""

import time
from collections.abc import AsyncIterator

from headrace.types import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    Started,
    TextDelta,
    ToolChoice,
    Usage,
)


def why_not(request: ChatRequest) -> str:
    """Why this request cannot be answered with a fixed text; empty = it can."""
    if request.format.kind is not FormatKind.TEXT:
        return f"it asks for {request.format.kind}"
    if request.tool_choice is ToolChoice.REQUIRED:
        return "it demands a tool call"
    if request.sampling.logprobs is not None:
        return "it asks for log-probabilities"
    return ""


async def said(request: ChatRequest, text: str) -> AsyncIterator[Event]:
    """The stream."""
    yield Started(
        id=request.trace, model=request.model, created_s=int(time.time()), prompt_tokens=0
    )
    choices = request.sampling.n
    for index in range(choices):
        yield TextDelta(text=text, index=index)
    for index in range(choices):
        usage = Usage() if index == choices - 1 else None
        yield Finished(reason=FinishReason.STOP, index=index, usage=usage)
