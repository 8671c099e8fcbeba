"""The chunks of Gemini's streamGenerateContent become events, with `Backend`'s invariants.

The stream has no last mark: it is whole when a finish reason and the usage came before the
connection's end. Candidates' and thoughts' tokens are counted apart there, together here. Source:
Google's API reference, GenerateContentResponse.
"""

import contextlib
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

_FILTERED = (
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "IMAGE_SAFETY",
    "MODEL_ARMOR",
)
_REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    **dict.fromkeys(_FILTERED, FinishReason.CONTENT_FILTER),
}
_BY_STATUS: Mapping[int, type[HeadraceError]] = {
    400: errors.UserError,
    401: errors.Unauthorized,
    403: errors.Unauthorized,
    404: errors.NotFound,
    413: errors.PayloadTooLarge,
    503: errors.NotReady,
    504: errors.UpstreamTimeout,
}


class ContentReader:
    """`push` the data of each event of the stream, then `end`."""

    done = False
    """Only the connection's end ends it."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._calls = 0
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self.heard_all = False

    @property
    def heard(self) -> Usage | None:
        """The last usage; Gemini says it in every chunk."""
        return self._usage

    def push(self, data: str) -> Iterator[Event]:
        """The events of one chunk.

        Raises: UpstreamError, or what the server's own error object says.
        """
        chunk = shapes.parse(data)
        if chunk.get("error") is not None:
            raise error_of(chunk, status=None)
        with shapes.shaped(data):
            yield from self._events(chunk)

    def end(self) -> Iterator[Event]:
        """The last event, once the connection has ended.

        Raises: UpstreamError where the answer is not whole.
        """
        if self._reason is None:
            raise UpstreamError("the server's stream was cut off before a finish reason")
        if self._usage is None:
            raise UpstreamError("the server sent no usage, so the tokens cannot be booked")
        reason = self._reason
        if reason is FinishReason.STOP and self._calls:
            reason = FinishReason.TOOL_CALLS
        yield Finished(reason=reason, usage=self._usage)

    def _events(self, chunk: dict[str, Any]) -> Iterator[Event]:
        self.heard_all = chunk.get("usageMetadata") is not None
        if self.heard_all:
            self._usage = _usage(shapes.mapping(chunk["usageMetadata"]))
        if self._id is None:
            self._id = shapes.text(chunk.get("responseId"))
            yield Started(
                id=self._id,
                model=shapes.text(chunk.get("modelVersion")),
                created_s=int(time.time()),
                prompt_tokens=0 if self._usage is None else self._usage.prompt_tokens,
            )
        blocked = shapes.mapping(chunk.get("promptFeedback")).get("blockReason")
        if blocked is not None:
            self._reason = FinishReason.CONTENT_FILTER
        candidates = shapes.objects(chunk.get("candidates"))
        if len(candidates) > 1 or any(shapes.count(item.get("index")) for item in candidates):
            raise UpstreamError("the server sent several candidates where one was asked for")
        for candidate in candidates:
            yield from self._candidate(candidate)

    def _candidate(self, candidate: dict[str, Any]) -> Iterator[Event]:
        parts = shapes.objects(shapes.mapping(candidate.get("content")).get("parts"))
        if parts and self._reason is not None:
            raise UpstreamError("the server sent more after the finish reason")
        for part in parts:
            yield from self._part(part)
        reason = shapes.optional_text(candidate.get("finishReason"))
        if reason is None:
            return
        if reason not in _REASONS:
            raise UpstreamError(f"the server ended with finishReason {shapes.short(reason)}")
        self._reason = _REASONS[reason]

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        signature = shapes.text(part.get("thoughtSignature"))
        if "functionCall" in part:
            if signature:
                yield ReasoningDelta(text="", signature=signature)
            call = shapes.mapping(part["functionCall"])
            name = shapes.text(call["name"])
            if not name:
                raise ValueError("a call without a name")
            arguments = shapes.mapping(call.get("args"))
            self._calls += 1
            yield ToolCallDelta(
                call=self._calls - 1,
                id=shapes.text(call.get("id")) or f"call_{self._id or 'x'}_{self._calls}",
                name=name,
                arguments=json.dumps(arguments, ensure_ascii=False),
            )
        elif "text" in part:
            text = shapes.text(part["text"])
            if part.get("thought"):
                if text or signature:
                    yield ReasoningDelta(text=text, signature=signature)
                return
            if signature:
                yield ReasoningDelta(text="", signature=signature)
            if text:
                yield TextDelta(text=text)
        else:
            raise UpstreamError(f"the server sent a part of {', '.join(part)[:100] or 'nothing'}")


def _usage(found: dict[str, Any]) -> Usage:
    thoughts = shapes.count(found.get("thoughtsTokenCount"))
    return Usage(
        prompt_tokens=shapes.count(found.get("promptTokenCount"))
        + shapes.count(found.get("toolUsePromptTokenCount")),
        cached_tokens=shapes.count(found.get("cachedContentTokenCount")),
        completion_tokens=shapes.count(found.get("candidatesTokenCount")) + thoughts,
        reasoning_tokens=thoughts,
    )


def error_of(
    found: object, *, status: int | None, retry_after_s: int | None = None
) -> HeadraceError:
    """The error that an answer or a chunk means; `status` None = it came inside a stream."""
    tree = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}
    inner = tree.get("error")
    fields = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {"message": found}
    message = f"the server said: {str(fields.get('message'))[:2000]}"
    code = fields.get("code")
    known = code if status is None and isinstance(code, int) else status
    if known == 429:
        return Overloaded(message, retry_after_s=retry_after_s or _delay_s(fields) or 1)
    made = _BY_STATUS.get(known or 0) or UpstreamError
    if made is UpstreamError and status is not None:
        message = f"HTTP {status}; {message}"
    error = made(message)
    if isinstance(error, errors.ServiceError):
        error.retry_after_s = retry_after_s
    return error


def _delay_s(fields: Mapping[str, Any]) -> int | None:
    """google.rpc.RetryInfo's delay, `7s` or `7.2s`, rounded up."""
    with contextlib.suppress(ValueError, OverflowError, TypeError, AttributeError):
        for item in shapes.objects(fields.get("details")):
            delay = shapes.text(item.get("retryDelay"))
            if delay.endswith("s"):
                return min(max(-int(-float(delay[:-1]) // 1), 0), 86_400)
    return None
