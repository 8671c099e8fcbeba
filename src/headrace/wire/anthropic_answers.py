"""Events of an answer become Anthropic's message, whole or as its stream of events.

The stream is `message_start`, for each block `content_block_start`, its deltas and
`content_block_stop`, then `message_delta` with stop reason and final usage, and `message_stop`;
the whole message is made of the same blocks. Anthropic counts cached tokens apart:
`input_tokens` is what was neither read from a cache nor written to one.

| finish reason | stop_reason |
|---|---|
| stop | end_turn, or stop_sequence with the string |
| length; deadline, abort and error, which cut short too | max_tokens |
| tool_calls | tool_use |
| content_filter | refusal |

A text block ends where it is cited, with its `citations`; all of the message's, with their
verdicts, are ours, on the message and on `message_delta` (`headrace.wire.citations`), as is
`not_in_sources`.

Source: Anthropic's API reference, Messages and streaming.
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.errors import UpstreamError
from headrace.types import (
    Citation,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.wire.blocks import Block, BlockKind, Blocks, Growth
from headrace.wire.citations import char_location, citation_object, is_shown
from headrace.wire.sse import named_frame

_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


class MessageEncoder:
    """`push` each event of a stream, then `end`; both return SSE frames, perhaps none."""

    def __init__(self, *, id: str, model: str) -> None:
        self._id = id
        self._model = model
        self._blocks = Blocks(cut_at_citations=True)
        self._citations: list[Citation] = []

    def push(self, event: Event) -> bytes:
        """Frames of one event.

        Raises: UpstreamError for calls that no message can hold.
        """
        match event:
            case Started():
                message = _message(self._id, self._model)
                message["usage"] = usage_object(Usage(prompt_tokens=event.prompt_tokens))
                return _frame("message_start", message=message)
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                growth = self._blocks.push(event)
                return b"" if growth is None else self._grown(growth, event)
            case Finished():
                last = self._blocks.close()
                stop = b"" if last is None else _frame("content_block_stop", index=last.at)
                delta = stop_fields(event)
                usage = usage_object(event.usage or Usage())
                ours = _ours(self._citations, event)
                return stop + _frame("message_delta", delta=delta, usage=usage, **ours)
            case Citation():
                return self._cited(event)

    def end(self) -> bytes:
        """The last frame."""
        return _frame("message_stop")

    def _cited(self, event: Citation) -> bytes:
        self._citations.append(event)
        block = self._blocks.cite(event) if is_shown(event) else None
        if block is None:
            return b""
        delta = {"type": "citations_delta", "citation": char_location(event)}
        return _frame("content_block_delta", index=block.at, delta=delta)

    def _grown(self, growth: Growth, event: TextDelta | ReasoningDelta | ToolCallDelta) -> bytes:
        block, frames = growth.block, b""
        if growth.closed is not None:
            frames += _frame("content_block_stop", index=growth.closed.at)
        if growth.opened:
            frames += _frame("content_block_start", index=block.at, content_block=_opening(block))
        for delta in _deltas(event):
            frames += _frame("content_block_delta", index=block.at, delta=delta)
        return frames


def encode(events: Iterable[Event], *, id: str, model: str) -> bytes:
    """The whole message.

    Raises: UpstreamError for a stream that never finished, or calls that no message can hold.
    """
    blocks = Blocks(cut_at_citations=True)
    citations: list[Citation] = []
    finished: Finished | None = None
    for event in events:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                blocks.push(event)
            case Finished():
                finished = event
            case Citation():
                citations.append(event)
                if is_shown(event):
                    blocks.cite(event)
            case Started():
                pass
    if finished is None:
        raise UpstreamError("the answer ended without saying why")
    message = _message(id, model)
    message |= {"content": [_whole(block) for block in blocks.all], **stop_fields(finished)}
    message["usage"] = usage_object(finished.usage or Usage())
    return msgspec.json.encode(message | _ours(citations, finished))


def encode_count(tokens: int) -> bytes:
    """The answer of POST /v1/messages/count_tokens."""
    return msgspec.json.encode({"input_tokens": tokens})


def usage_object(usage: Usage) -> dict[str, Any]:
    """Anthropic's usage: the three counts of the prompt do not overlap."""
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    found: dict[str, Any] = {
        "input_tokens": max(fresh, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return found


def stop_fields(event: Finished) -> dict[str, Any]:
    """`stop_reason` and `stop_sequence`."""
    if event.reason is FinishReason.STOP and isinstance(event.stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": event.stop}
    return {"stop_reason": _REASONS.get(event.reason, "max_tokens"), "stop_sequence": None}


def _ours(citations: list[Citation], finished: Finished) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if citations:
        found["citations"] = [citation_object(citation) for citation in citations]
    if finished.not_in_sources:
        found["not_in_sources"] = True
    return found


def _message(id: str, model: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _opening(block: Block) -> dict[str, Any]:
    match block.kind:
        case BlockKind.TEXT:
            return {"type": "text", "text": ""}
        case BlockKind.REASONING:
            if block.redacted:
                return {"type": "redacted_thinking", "data": block.signature}
            return {"type": "thinking", "thinking": "", "signature": ""}
        case BlockKind.CALL:
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _deltas(event: TextDelta | ReasoningDelta | ToolCallDelta) -> Iterable[dict[str, Any]]:
    match event:
        case TextDelta():
            if event.text:
                yield {"type": "text_delta", "text": event.text}
        case ReasoningDelta():
            if event.text:
                yield {"type": "thinking_delta", "thinking": event.text}
            if event.signature and not event.redacted:
                yield {"type": "signature_delta", "signature": event.signature}
        case ToolCallDelta():
            if event.arguments:
                yield {"type": "input_json_delta", "partial_json": event.arguments}


def _whole(block: Block) -> dict[str, Any]:
    body = _opening(block)
    match block.kind:
        case BlockKind.TEXT:
            body["text"] = block.text
            if block.citations:
                body["citations"] = [char_location(citation) for citation in block.citations]
        case BlockKind.REASONING:
            if not block.redacted:
                body |= {"thinking": block.text, "signature": block.signature}
        case BlockKind.CALL:
            body["input"] = _input(block)
    return body


def _input(block: Block) -> dict[str, Any]:
    """The arguments as an object, which is the only shape that Anthropic's protocol has."""
    text = block.text.strip()
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UpstreamError(
            f"the model called {block.name} with arguments that are no JSON object, which this "
            "protocol cannot carry; ask again, or use /v1/chat/completions, which has them as text"
        )
    return found


def _frame(kind: str, **fields: Any) -> bytes:
    return named_frame(kind, msgspec.json.encode({"type": kind, **fields}))
