"""The messages of Bedrock's ConverseStream become events, with `Backend`'s invariants or an error.

The order is messageStart, blocks, messageStop, metadata; the last carries the usage, so an answer
is whole only with it. Cached tokens are counted apart there, included here. Source: AWS's API
reference, ConverseStream.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from headrace import errors
from headrace.errors import HeadraceError, Overloaded, ServiceError, UpstreamError
from headrace.providers import shapes
from headrace.providers.event_stream import EventStreamReader, StreamMessage
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
    "guardrail_intervened": FinishReason.CONTENT_FILTER,
    "content_filtered": FinishReason.CONTENT_FILTER,
}
_KINDS: Mapping[str, type[HeadraceError]] = {
    "validationexception": errors.UserError,
    "accessdeniedexception": errors.Unauthorized,
    "resourcenotfoundexception": errors.NotFound,
    "modeltimeoutexception": errors.UpstreamTimeout,
    "modelnotreadyexception": errors.NotReady,
    "serviceunavailableexception": errors.NotReady,
}
_BY_STATUS: Mapping[int, type[HeadraceError]] = {
    400: errors.UserError,
    401: errors.Unauthorized,
    403: errors.Unauthorized,
    404: errors.NotFound,
    408: errors.UpstreamTimeout,
    413: errors.PayloadTooLarge,
    503: errors.NotReady,
}


class ConverseReader:
    """An `EventReader` over the binary stream."""

    def __init__(self) -> None:
        self._reader = EventStreamReader()
        self._started = False
        self._open: int | None = None
        self._calls = 0
        self._calling = False
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self.heard_all = False
        self.done = False
        """Whether the metadata came."""

    @property
    def heard(self) -> Usage | None:
        """The usage, which comes last."""
        return self._usage

    def push(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete.

        Raises: UpstreamError, or what the server's own exception says.
        """
        for message in self._reader.push(data):
            yield from self._message(message)

    def end(self) -> Iterator[Event]:
        """The last event, once the connection has ended.

        Raises: UpstreamError where the answer is not whole.
        """
        if self._reason is None or self._usage is None or self._reader.unfinished:
            raise UpstreamError("the server's stream was cut off before its metadata")
        yield Finished(reason=self._reason, usage=self._usage)

    def _message(self, message: StreamMessage) -> Iterator[Event]:
        kind = message.headers.get(":message-type")
        if kind == "error":
            code, text = (message.headers.get(f":error-{name}") for name in ("code", "message"))
            raise error_of({"__type": code, "message": text}, status=None)
        tree = shapes.parse(message.payload)
        if kind == "exception":
            tree = {"__type": message.headers.get(":exception-type"), **tree}
            raise error_of(tree, status=None)
        if kind != "event":
            raise UpstreamError(f"the event stream has a message of type {shapes.short(kind)}")
        if self.done:
            raise UpstreamError("the server sent more after its metadata")
        with shapes.shaped(message.payload):
            yield from self._event(message.headers.get(":event-type", ""), tree)

    def _event(self, kind: str, tree: dict[str, Any]) -> Iterator[Event]:
        if kind == "messageStart":
            if self._started:
                raise UpstreamError("the server began its message twice")
            self._started = True
            yield Started(id="", model="", created_s=int(time.time()), prompt_tokens=0)
            return
        if not self._started:
            raise UpstreamError(f"the server's stream began with {shapes.short(kind)}")
        if kind.startswith("contentBlock") and self._reason is not None:
            raise UpstreamError("the server sent more after the stop reason")
        match kind:
            case "contentBlockStart":
                self._begin(shapes.count(tree["contentBlockIndex"]))
                yield from self._tool(shapes.mapping(tree["start"]))
            case "contentBlockDelta":
                index = shapes.count(tree["contentBlockIndex"])
                if self._open is None:  # blocks of text have no start
                    self._begin(index)
                if self._open != index:
                    raise UpstreamError(f"the server sent more of block {index}, which is not open")
                yield from self._delta(shapes.mapping(tree["delta"]))
            case "contentBlockStop":
                if self._open not in (None, shapes.count(tree["contentBlockIndex"])):
                    raise UpstreamError("the server ended a block that was not open")
                self._open = None
            case "messageStop":
                reason = shapes.text(tree["stopReason"])
                if reason not in _REASONS:
                    raise UpstreamError(f"the server ended with stopReason {shapes.short(reason)}")
                self._reason = _REASONS[reason]
            case "metadata":
                if self._reason is None:
                    raise UpstreamError("the server sent its metadata before its stop reason")
                self._usage = _usage(shapes.mapping(tree["usage"]))
                self.done = True
            case _:
                return

    def _begin(self, index: int) -> None:
        if self._open is not None:
            raise UpstreamError(f"the server began block {index} in the middle of another")
        self._open = index
        self._calling = False

    def _tool(self, start: dict[str, Any]) -> Iterator[Event]:
        if "toolUse" not in start:
            raise UpstreamError(
                f"the server began a block of {', '.join(start)[:100] or 'nothing'}"
            )
        tool = shapes.mapping(start["toolUse"])
        call_id, name = shapes.text(tool["toolUseId"]), shapes.text(tool["name"])
        if not call_id or not name:
            raise ValueError("a call without an id or a name")
        self._calls += 1
        self._calling = True
        yield ToolCallDelta(call=self._calls - 1, id=call_id, name=name)

    def _delta(self, delta: dict[str, Any]) -> Iterator[Event]:
        if "toolUse" in delta:
            if not self._calling:
                raise UpstreamError("the server sent arguments outside a call")
            piece = shapes.text(shapes.mapping(delta["toolUse"])["input"])
            if piece:
                yield ToolCallDelta(call=self._calls - 1, arguments=piece)
            return
        if self._calling:
            raise UpstreamError(f"the server sent {', '.join(delta)[:100]} inside a call")
        if "text" in delta:
            if text := shapes.text(delta["text"]):
                yield TextDelta(text=text)
        elif "reasoningContent" in delta:
            thought = shapes.mapping(delta["reasoningContent"])
            redacted = "redactedContent" in thought
            made = ReasoningDelta(
                text=shapes.text(thought.get("text")),
                signature=shapes.text(thought.get("redactedContent" if redacted else "signature")),
                redacted=redacted,
            )
            if made.text or made.signature:
                yield made
        elif "citation" not in delta:
            raise UpstreamError(f"the server sent a delta of {', '.join(delta)[:100] or 'nothing'}")


def _usage(found: dict[str, Any]) -> Usage:
    read = shapes.count(found.get("cacheReadInputTokens"))
    written = shapes.count(found.get("cacheWriteInputTokens"))
    return Usage(
        prompt_tokens=shapes.count(found["inputTokens"]) + read + written,
        cached_tokens=read,
        cache_write_tokens=written,
        completion_tokens=shapes.count(found["outputTokens"]),
    )


def error_of(
    found: object, *, status: int | None, retry_after_s: int | None = None
) -> HeadraceError:
    """The error that an answer or an exception means; `status` None = inside a stream."""
    tree = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {"message": found}
    said = tree.get("message") or tree.get("Message")
    message = f"the server said: {str(said)[:2000]}"
    kind = str(tree.get("__type") or "").rpartition("#")[2].lower()
    if status == 429 or kind == "throttlingexception":
        return Overloaded(message, retry_after_s=retry_after_s or 1)
    made = _KINDS.get(kind) or _BY_STATUS.get(status or 0) or UpstreamError
    if made is UpstreamError and status is not None:
        message = f"HTTP {status}; {message}"
    error = made(message)
    if isinstance(error, ServiceError):
        error.retry_after_s = retry_after_s
    return error
