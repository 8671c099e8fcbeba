"""Requests become the JSON bodies of Anthropic's Messages API.

What was set is sent, what the API cannot carry is refused by name. Tool results and what the user
says next are one message, as the API wants it; system messages may stand at the start only. The
API demands `max_tokens`: where a request has none, the route's `max_output_tokens` is sent.
Source: Anthropic's API reference.
"""

import base64
import json
from typing import Any

from headrace.errors import InvalidParameter
from headrace.providers.limits import refuse_others, unsupported
from headrace.types import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    FormatKind,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)

API = "Anthropic's API"
_CARRIED = ("temperature", "top_p", "top_k", "max_tokens", "stop")
_CHOICES = {ToolChoice.AUTO: "auto", ToolChoice.NONE: "none", ToolChoice.REQUIRED: "any"}


def message_body(request: ChatRequest, *, model: str, max_output_tokens: int) -> dict[str, Any]:
    """The body of POST /v1/messages."""
    sampling = request.sampling
    refuse_others(request, api=API, carried=_CARRIED)
    body = prompt_body(request, model=model)
    body |= {"max_tokens": sampling.max_tokens or max_output_tokens, "stream": True}
    if sampling.temperature > 1:
        raise unsupported(
            str(sampling.temperature), api=API, param="temperature", way_out="send at most 1"
        )
    for name in ("temperature", "top_p", "top_k"):
        if name in sampling.given or getattr(sampling, name) != getattr(type(sampling)(), name):
            body[name] = getattr(sampling, name)
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    return body


def prompt_body(request: ChatRequest, *, model: str) -> dict[str, Any]:
    """The fields that shape a prompt: the body of POST /v1/messages/count_tokens."""
    start = next(
        (at for at, message in enumerate(request.messages) if not _is_system(message)),
        len(request.messages),
    )
    body: dict[str, Any] = {"model": model, "messages": _messages(request.messages, start)}
    system = [
        {"type": "text", "text": part.text}
        for message in request.messages[:start]
        for part in message.parts
        if isinstance(part, TextPart) and part.text
    ]
    if system:
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request)
    body |= _thinking(request)
    if request.prompt_cache:
        body["cache_control"] = {"type": "ephemeral", "ttl": request.prompt_cache}
    return body


def _is_system(message: Message) -> bool:
    return message.role in (Role.SYSTEM, Role.DEVELOPER)


def _messages(messages: tuple[Message, ...], start: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for at, message in enumerate(messages[start:], start=start):
        if _is_system(message):
            raise unsupported(
                f"{message.role.value} after the conversation began",
                api=API,
                param=f"messages[{at}].role",
                way_out="put it at the start",
            )
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = [
            block
            for number, part in enumerate(message.parts)
            for block in _blocks(part, f"messages[{at}].content[{number}]")
        ]
        if made and made[-1]["role"] == role:
            made[-1]["content"] += blocks
        elif blocks:
            made.append({"role": role, "content": blocks})
    if not made:
        raise InvalidParameter(
            f"`messages` has nothing but system messages; {API} needs one of the user",
            param="messages",
        )
    return made


def _blocks(part: Part, path: str) -> list[dict[str, Any]]:
    match part:
        case TextPart():
            return [{"type": "text", "text": part.text}] if part.text else []
        case ReasoningPart():
            if part.redacted:
                return [{"type": "redacted_thinking", "data": part.signature}]
            if not part.signature:
                return []  # another model's: the API takes none but its own, signed
            return [{"type": "thinking", "thinking": part.text, "signature": part.signature}]
        case ToolCallPart():
            found = arguments_object(part, path)
            return [{"type": "tool_use", "id": part.id, "name": part.name, "input": found}]
        case ToolResultPart():
            result: dict[str, Any] = {
                "type": "tool_result",
                "tool_use_id": part.call_id,
                "content": part.text,
            }
            return [{**result, "is_error": True} if part.is_error else result]
        case ImagePart():
            return [{"type": "image", "source": _source(part.data, part.url, part.media_type)}]
        case DocumentPart():
            source = (
                {"type": "text", "media_type": "text/plain", "data": part.text}
                if part.data is None and part.url is None
                else _source(part.data, part.url, part.media_type)
            )
            title = {} if part.title is None else {"title": part.title}
            return [{"type": "document", "source": source, **title}]
        case AudioPart():
            raise unsupported(part.media_type, api=API, param=path, way_out="send text")


def arguments_object(part: ToolCallPart, path: str) -> dict[str, Any]:
    """A call's arguments as the object that APIs want which do not carry them as text."""
    try:
        found = json.loads(part.arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidParameter(
            f"`{path}` calls {part.name} with arguments that are no JSON object", param=path
        )
    return found


def _source(data: bytes | None, url: str | None, media_type: str) -> dict[str, Any]:
    if data is None:
        return {"type": "url", "url": url}
    return {
        "type": "base64",
        "media_type": media_type,
        "data": base64.b64encode(data).decode(),
    }


def _tool(tool: ToolSpec) -> dict[str, Any]:
    body: dict[str, Any] = {"name": tool.name, "input_schema": _schema(tool)}
    if tool.description is not None:
        body["description"] = tool.description
    if tool.strict:
        body["strict"] = True
    return body


def _schema(tool: ToolSpec) -> dict[str, Any]:
    """OpenAI lets a function without arguments have no schema; this API wants one."""
    return dict(tool.parameters) or {"type": "object", "properties": {}}


def _tool_choice(request: ChatRequest) -> dict[str, Any]:
    choice: dict[str, Any] = {"type": _CHOICES[request.tool_choice]}
    if request.tool_name is not None:
        choice = {"type": "tool", "name": request.tool_name}
    if not request.parallel_tool_calls and request.tool_choice is not ToolChoice.NONE:
        choice["disable_parallel_tool_use"] = True
    return choice


def _thinking(request: ChatRequest) -> dict[str, Any]:
    wanted, form = request.reasoning, request.format
    body: dict[str, Any] = {}
    if wanted.budget_tokens is not None:
        body["thinking"] = {"type": "enabled", "budget_tokens": wanted.budget_tokens}
    elif wanted.enabled is not None or wanted.effort == "none":
        body["thinking"] = {"type": "adaptive" if wanted.enabled else "disabled"}
    config: dict[str, Any] = {}
    if wanted.effort not in (None, "none"):
        config["effort"] = wanted.effort
    if form.kind is FormatKind.JSON_SCHEMA:
        config["format"] = {"type": "json_schema", "schema": dict(form.schema or {})}
    elif form.kind is FormatKind.JSON_OBJECT:
        raise unsupported(
            "json_object", api=API, param="response_format", way_out="send a json_schema"
        )
    return {**body, "output_config": config} if config else body
