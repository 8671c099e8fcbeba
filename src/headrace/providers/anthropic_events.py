"""Anthropic's stream of message events becomes events, with `Backend`'s invariants or an error.

Invariants: `Started` first; one `Finished`, held until `message_stop`, with the usage; blocks open
and close in order. A stream that ends early, repeats itself or speaks nonsense is an
`UpstreamError`. Kinds of events that are new to us are passed over, as the API asks of clients.
Source: Anthropic's API reference, streaming messages.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from headrace import errors
from headrace.errors import HeadraceError, Overloaded, UpstreamError
from headrace.providers import shapes
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_KINDS: Mapping[str, type[HeadraceError]] = {
    "invalid_request_error": errors.UserError,
    "authentication_error": errors.Unauthorized,
    "permission_error": errors.Unauthorized,
    "not_found_error": errors.NotFound,
    "request_too_large": errors.PayloadTooLarge,
    "overloaded_error": errors.NotReady,
    "timeout_error": errors.UpstreamTimeout,
}
_BY_STATUS: Mapping[int, type[HeadraceError]] = {
    400: errors.UserError,
    401: errors.Unauthorized,
    403: errors.Unauthorized,
    404: errors.NotFound,
    413: errors.PayloadTooLarge,
    503: errors.NotReady,
    504: errors.UpstreamTimeout,
    529: errors.NotReady,
}


class MessageReader:
    """`push` the data of each event of the stream, then `end`."""

    def __init__(self) -> None:
        self._started = False
        self._open: tuple[int, str] | None = None
        self._blocks = 0
        self._calls = 0
        self._reason: FinishReason | None = None
        self._stop: str | None = None
        self._usage: dict[str, int] = {}
        self.done = False
        """Whether `message_stop` came."""

    heard_all = False
    """The prompt is counted at the start; the answer only at its end."""

    @property
    def heard(self) -> Usage | None:
        """What `message_start` said, then what `message_delta` did."""
        return self._counted() if self._usage else None

    def push(self, data: str) -> Iterator[Event]:
        """The events of one event.

        Raises: UpstreamError, or what the server's own error object says.
        """
        if self.done:
            raise UpstreamError("the server sent more after message_stop")
        event = shapes.parse(data)
        if event.get("type") == "error":
            raise error_of(event, status=None)
        with shapes.shaped(data):
            yield from self._events(event)

    def end(self) -> Iterator[Event]:
        """The last event, once the connection has ended.

        Raises: UpstreamError where the answer is not whole.
        """
        if not self.done or self._reason is None:
            raise UpstreamError("the server's stream was cut off before its message had ended")
        yield Finished(reason=self._reason, stop=self._stop, usage=self._counted())

    def _events(self, event: dict[str, Any]) -> Iterator[Event]:
        kind = shapes.text(event["type"])
        if kind == "message_start":
            yield self._start(shapes.mapping(event["message"]))
            return
        if kind == "ping":
            return
        if not self._started:
            raise UpstreamError(f"the server's stream began with {kind}")
        match kind:
            case "content_block_start":
                yield from self._block(shapes.count(event["index"]), event["content_block"])
            case "content_block_delta":
                yield from self._delta(shapes.count(event["index"]), event["delta"])
            case "content_block_stop":
                if self._open is None or self._open[0] != shapes.count(event["index"]):
                    raise UpstreamError("the server ended a block that was not open")
                self._open = None
            case "message_delta":
                self._note(event.get("usage"))
                self._finish(shapes.mapping(event["delta"]))
            case "message_stop":
                if self._open is not None or self._reason is None:
                    raise UpstreamError("the server ended its message in the middle of it")
                self.done = True
            case _:
                return

    def _start(self, message: dict[str, Any]) -> Started:
        if self._started:
            raise UpstreamError("the server began its message twice")
        self._started = True
        self._note(message["usage"])
        return Started(
            id=shapes.text(message.get("id")),
            model=shapes.text(message.get("model")),
            created_s=int(time.time()),
            prompt_tokens=self._counted().prompt_tokens,
        )

    def _block(self, index: int, found: object) -> Iterator[Event]:
        if self._open is not None or index != self._blocks or self._reason is not None:
            raise UpstreamError(f"the server began block {index} out of turn")
        block = shapes.mapping(found)
        kind = shapes.text(block["type"])
        self._open = (index, kind)
        self._blocks += 1
        match kind:
            case "text":
                yield from _said(TextDelta(text=shapes.text(block.get("text"))))
            case "thinking":
                yield from _thought(block.get("thinking"), block.get("signature"))
            case "redacted_thinking":
                yield ReasoningDelta(text="", signature=_some(block["data"]), redacted=True)
            case "tool_use":
                self._calls += 1
                given = shapes.mapping(block.get("input"))
                yield ToolCallDelta(
                    call=self._calls - 1,
                    id=_some(block["id"]),
                    name=_some(block["name"]),
                    arguments=json.dumps(given, ensure_ascii=False) if given else "",
                )
            case _:
                raise UpstreamError(f"the server sent a block of kind {shapes.short(kind)}")

    def _delta(self, index: int, found: object) -> Iterator[Event]:
        if self._open is None or self._open[0] != index:
            raise UpstreamError(f"the server sent more of block {index}, which is not open")
        delta, block = shapes.mapping(found), self._open[1]
        kind = shapes.text(delta["type"])
        match block, kind:
            case "text", "text_delta":
                yield from _said(TextDelta(text=shapes.text(delta["text"])))
            case "text", "citations_delta":
                return
            case "thinking", "thinking_delta":
                yield from _thought(delta["thinking"], None)
            case "thinking", "signature_delta":
                yield from _thought(None, delta["signature"])
            case "tool_use", "input_json_delta":
                piece = shapes.text(delta["partial_json"])
                if piece:
                    yield ToolCallDelta(call=self._calls - 1, arguments=piece)
            case _:
                raise UpstreamError(f"the server sent a {shapes.short(kind)} in a block of {block}")

    def _finish(self, delta: dict[str, Any]) -> None:
        reason = shapes.optional_text(delta.get("stop_reason"))
        if reason is None:
            return
        if reason not in _REASONS:
            raise UpstreamError(f"the server ended with stop_reason {shapes.short(reason)}")
        self._reason = _REASONS[reason]
        self._stop = shapes.optional_text(delta.get("stop_sequence"))

    def _note(self, found: object) -> None:
        """Counts are of the whole so far; a later one replaces an earlier."""
        for name, value in shapes.mapping(found).items():
            if name.endswith("_tokens") and value is not None:
                self._usage[name] = shapes.count(value)
        details = shapes.mapping(shapes.mapping(found).get("output_tokens_details"))
        if "thinking_tokens" in details:
            self._usage["thinking_tokens"] = shapes.count(details["thinking_tokens"])

    def _counted(self) -> Usage:
        return usage_of(self._usage)


def usage_of(found: Mapping[str, int]) -> Usage:
    """Anthropic's counts, which do not overlap, as ours, which include."""
    read = found.get("cache_read_input_tokens", 0)
    written = found.get("cache_creation_input_tokens", 0)
    output = found.get("output_tokens", 0)
    return Usage(
        prompt_tokens=found.get("input_tokens", 0) + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        completion_tokens=output,
        reasoning_tokens=min(found.get("thinking_tokens", 0), output),
    )


def error_of(
    found: object, *, status: int | None, retry_after_s: int | None = None
) -> HeadraceError:
    """The error that an answer or an event means; `status` None = it came inside a stream."""
    tree = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}
    inner = tree.get("error")
    fields = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {"message": found}
    message = f"the server said: {str(fields.get('message'))[:2000]}"
    kind = str(fields.get("type"))
    if status == 429 or kind == "rate_limit_error":
        return Overloaded(message, retry_after_s=retry_after_s or 1)
    made = _KINDS.get(kind) or _BY_STATUS.get(status or 0) or UpstreamError
    if made is UpstreamError and status is not None:
        message = f"HTTP {status}; {message}"
    error = made(message)
    if isinstance(error, errors.ServiceError):
        error.retry_after_s = retry_after_s
    return error


def _said(event: TextDelta) -> Iterator[Event]:
    if event.text:
        yield event


def _thought(text: object, signature: object) -> Iterator[Event]:
    delta = ReasoningDelta(text=shapes.text(text), signature=shapes.text(signature))
    if delta.text or delta.signature:
        yield delta


def _some(value: object) -> str:
    found = shapes.text(value)
    if not found:
        raise ValueError("an id, a name or data is empty")
    return found
