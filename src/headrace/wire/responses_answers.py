"""Events of an answer become OpenAI's response object, whole or as its stream of events.

Each block of the answer is an output item: text a message, thoughts a reasoning item, a call a
function_call. The stream is `response.created`, `response.in_progress`, for each item its events,
and one of `response.completed`, `response.incomplete` and `response.failed`; every event has the
next `sequence_number`. The whole object is what the last event carries; after it comes `[DONE]`, as
Open Responses has it.

| finish reason | status |
|---|---|
| stop, tool_calls | completed |
| length; deadline, abort and error, which cut short too | incomplete, max_output_tokens |
| content_filter | incomplete, content_filter |

A text part has `annotations` for what is cited in it, each also an event behind its text, and
ours, `citations`, with the verdicts of all (`headrace.wire.citations`); `not_in_sources` is the
response's.

Source: OpenAI's API reference, Responses and streaming events.
"""

import time
from typing import Any

import msgspec

from headrace.errors import HeadraceError, UpstreamError
from headrace.types import (
    ChatRequest,
    Citation,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.wire.blocks import Block, BlockKind, Blocks, Growth
from headrace.wire.citations import citation_object, is_shown, response_annotation
from headrace.wire.responses_items import REDACTED
from headrace.wire.responses_request import ResponsesCall
from headrace.wire.sse import DONE, named_frame

_PREFIXES = {BlockKind.TEXT: "msg", BlockKind.REASONING: "rs", BlockKind.CALL: "fc"}
_PARTS = {BlockKind.TEXT: "output_text", BlockKind.REASONING: "reasoning_text"}


class ResponseEncoder:
    """`push` each event of a stream, then `end`, or `fail`; all return SSE frames. `whole` is what
    the last of them carries."""

    def __init__(self, call: ResponsesCall, *, id: str, model: str, stored: bool = False) -> None:
        self._call = call
        self.stored = stored
        """What the answer says of itself; who stores it may take it back before `end`."""
        self._id = id
        self._blocks = Blocks()
        self._finished: Finished | None = None
        self._sequence = 0
        self._head = _head(call, id=id, model=model)

    def push(self, event: Event) -> bytes:
        """Frames of one event.

        Raises: UpstreamError for calls that no response can hold.
        """
        match event:
            case Started():
                body = {**self._head, "store": self.stored}
                return self._frame("response.created", response=body) + self._frame(
                    "response.in_progress", response=body
                )
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                growth = self._blocks.push(event)
                return b"" if growth is None else self._grown(growth, event)
            case Finished():
                self._finished = event
                last = self._blocks.close()
                return b"" if last is None else self._done(last)
            case Citation():
                block = self._blocks.cite(event)
                shown = block is not None and is_shown(event)
                return self._annotated(block, event) if block is not None and shown else b""

    def end(self) -> bytes:
        """The last frame."""
        body = show(self.whole(), encrypted=self._call.encrypted)
        return self._frame(f"response.{body['status']}", response=body)

    def fail(self, error: HeadraceError, *, request_id: str = "") -> bytes:
        """The last frames of a stream that failed."""
        body = show(self.failed(error), encrypted=self._call.encrypted)
        told = self._frame("error", code=error.code, message=error.message, param=error.param)
        return told + self._frame("response.failed", response=body) + DONE

    def failed(self, error: HeadraceError) -> dict[str, Any]:
        """The response that an error ended."""
        return {
            **self._head,
            "store": self.stored,
            "status": "failed",
            "error": {"code": error.code, "message": error.message},
            "output": [self._item(block, "incomplete") for block in self._blocks.all],
        }

    def whole(self) -> dict[str, Any]:
        """The response, once every event was pushed, with the signatures of its thoughts.

        Raises: UpstreamError for a stream that never finished.
        """
        finished = self._finished
        if finished is None:
            raise UpstreamError("the answer ended without saying why")
        cut = _incomplete(finished.reason)
        status = "completed" if cut is None else "incomplete"
        last = len(self._blocks.all) - 1
        ours = {"not_in_sources": True} if finished.not_in_sources else {}
        return {
            **self._head,
            **ours,
            "store": self.stored,
            "status": status,
            "completed_at": int(time.time()) if cut is None else None,
            "incomplete_details": None if cut is None else {"reason": cut},
            "output": [
                self._item(block, status if at == last else "completed")
                for at, block in enumerate(self._blocks.all)
            ],
            "usage": usage_object(finished.usage or Usage()),
        }

    def _grown(self, growth: Growth, event: TextDelta | ReasoningDelta | ToolCallDelta) -> bytes:
        block, frames = growth.block, b""
        if growth.closed is not None:
            frames += self._done(growth.closed)
        if growth.opened:
            frames += self._opened(block)
        where = {"item_id": self._item_id(block), "output_index": block.at}
        match event:
            case TextDelta():
                kind = "response.output_text.delta"
                more = {"content_index": 0, "delta": event.text, "logprobs": []}
            case ReasoningDelta():
                kind = "response.reasoning_text.delta"
                more = {"content_index": 0, "delta": event.text}
            case ToolCallDelta():
                kind = "response.function_call_arguments.delta"
                more = {"delta": event.arguments}
        return frames + self._frame(kind, **where, **more) if more["delta"] else frames

    def _annotated(self, block: Block, event: Citation) -> bytes:
        return self._frame(
            "response.output_text.annotation.added",
            item_id=self._item_id(block),
            output_index=block.at,
            content_index=0,
            annotation_index=sum(is_shown(item) for item in block.citations) - 1,
            annotation=response_annotation(event, base=block.base),
        )

    def _opened(self, block: Block) -> bytes:
        empty = Block(kind=block.kind, at=block.at, id=block.id, name=block.name)
        item = self._item(empty, "in_progress")
        if "content" in item:
            item["content"] = []
        frames = self._frame("response.output_item.added", output_index=block.at, item=item)
        if block.kind in _PARTS:
            frames += self._frame(
                "response.content_part.added",
                item_id=self._item_id(block),
                output_index=block.at,
                content_index=0,
                part=_part(empty),
            )
        return frames

    def _done(self, block: Block) -> bytes:
        where = {"item_id": self._item_id(block), "output_index": block.at}
        if block.kind is BlockKind.CALL:
            frames = self._frame(
                "response.function_call_arguments.done",
                **where,
                name=block.name,
                arguments=block.text,
            )
        else:
            kind = _PARTS[block.kind]
            logprobs = {"logprobs": []} if block.kind is BlockKind.TEXT else {}
            frames = self._frame(
                f"response.{kind}.done", **where, content_index=0, text=block.text, **logprobs
            )
            frames += self._frame(
                "response.content_part.done", **where, content_index=0, part=_part(block)
            )
        cut = None if self._finished is None else _incomplete(self._finished.reason)
        item = self._item(block, "completed" if cut is None else "incomplete")
        if not self._call.encrypted:
            item.pop("encrypted_content", None)
        return frames + self._frame("response.output_item.done", output_index=block.at, item=item)

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self._item_id(block), "status": status}
        match block.kind:
            case BlockKind.TEXT:
                return item | {
                    "type": "message",
                    "role": "assistant",
                    "content": [_part(block)],
                }
            case BlockKind.REASONING:
                item |= {"type": "reasoning", "summary": [], "content": [_part(block)]}
                if block.signature:
                    mark = REDACTED if block.redacted else ""
                    item["encrypted_content"] = mark + block.signature
                return item
            case BlockKind.CALL:
                return item | {
                    "type": "function_call",
                    "call_id": block.id,
                    "name": block.name,
                    "arguments": block.text,
                }

    def _item_id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._id.removeprefix('resp_')}_{block.at}"

    def _frame(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return named_frame(kind, msgspec.json.encode(body))


def show(body: dict[str, Any], *, encrypted: bool) -> dict[str, Any]:
    """A response as its client asked to see it: with the signatures of its thoughts, or without."""
    if encrypted:
        return body
    output = [
        {key: value for key, value in item.items() if key != "encrypted_content"}
        for item in body["output"]
    ]
    return {**body, "output": output}


def usage_object(usage: Usage) -> dict[str, Any]:
    """The Responses API's names of the counts."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _part(block: Block) -> dict[str, Any]:
    kind = _PARTS[block.kind]
    if block.kind is BlockKind.REASONING:
        return {"type": kind, "text": block.text}
    shown = [item for item in block.citations if is_shown(item)]
    annotations = [response_annotation(item, base=block.base) for item in shown]
    part = {"type": kind, "text": block.text, "annotations": annotations, "logprobs": []}
    if block.citations:
        part["citations"] = [citation_object(item) for item in block.citations]
    return part


def _incomplete(reason: FinishReason) -> str | None:
    if reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
        return None
    filtered = reason is FinishReason.CONTENT_FILTER
    return "content_filter" if filtered else "max_output_tokens"


def _head(call: ResponsesCall, *, id: str, model: str) -> dict[str, Any]:
    request = call.request
    sampling = request.sampling
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": call.instructions,
        "max_output_tokens": sampling.max_tokens,
        "max_tool_calls": None,
        "metadata": call.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": call.previous or None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "prompt_cache_key": None,
        "reasoning": {"effort": request.reasoning.effort, "summary": None},
        "safety_identifier": call.end_user or None,
        "service_tier": "default",
        "temperature": sampling.temperature,
        "text": {"format": _format(request)},
        "tool_choice": request.tool_choice.value
        if request.tool_name is None
        else {"type": "function", "name": request.tool_name},
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters) or None,
                "strict": tool.strict,
            }
            for tool in request.tools
        ],
        "top_logprobs": 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _format(request: ChatRequest) -> dict[str, Any]:
    form = request.format
    if form.kind is FormatKind.JSON_SCHEMA:
        return {"type": "json_schema", "name": "answer", "schema": dict(form.schema or {})}
    return {"type": form.kind.value}
