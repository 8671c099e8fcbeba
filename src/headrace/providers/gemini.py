"""Google's Gemini API, and the same models on Vertex, as a `Dialect`.

Both speak `generateContent`; they differ in address and credentials only. What was set is sent,
what the API cannot carry is refused by name. A thought's signature comes back on the part it was
given with: on a call where a call follows it. Source: Google's API reference, generateContent.
"""

import base64
from typing import Any
from urllib.parse import quote

from headrace.errors import HeadraceError, InvalidParameter
from headrace.providers.anthropic import counted, http_base, json_bytes
from headrace.providers.anthropic_requests import arguments_object
from headrace.providers.gemini_events import ContentReader, error_of
from headrace.providers.limits import refuse_others, unsupported
from headrace.providers.upstream import EventReader, HttpCall, SseEvents
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
    SamplingParams,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)

URL = "https://generativelanguage.googleapis.com"
API = "Gemini's API"
_NAMES = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}
_MODES = {ToolChoice.AUTO: "AUTO", ToolChoice.NONE: "NONE", ToolChoice.REQUIRED: "ANY"}
_LEVELS = ("minimal", "low", "medium", "high")


class GeminiDialect:
    """Gemini at `url`, or Vertex where a project is named.

    Args:
        url: Of the server; empty for Vertex = its region's own.
        model: Asked for instead of the request's.
        project: Of Google Cloud; empty = not Vertex.
        region: Of Vertex; `global` is one.
    """

    def __init__(self, *, url: str, model: str, project: str = "", region: str = "") -> None:
        if project:
            host = "" if region == "global" else f"{region}-"
            base = http_base(url or f"https://{host}aiplatform.googleapis.com")
            where = f"projects/{quote(project)}/locations/{quote(region)}/publishers/google"
            self._base = f"{base}/v1/{where}/models/{quote(model, safe=':')}"
        else:
            base = http_base(url or URL).removesuffix("/v1")
            self._base = f"{base}/v1/models/{quote(model, safe=':')}"
        self._vertex = bool(project)
        self._model = model

    def call(self, request: ChatRequest) -> HttpCall:
        """POST :streamGenerateContent."""
        body = content_body(request)
        return HttpCall(url=f"{self._base}:streamGenerateContent?alt=sse", body=json_bytes(body))

    def reader(self, request: ChatRequest) -> EventReader:
        """Of the stream."""
        return SseEvents(ContentReader())

    def error(self, status: int, found: object, retry_after_s: int | None) -> HeadraceError:
        """Of an answer other than 200."""
        return error_of(found, status=status, retry_after_s=retry_after_s)

    def count_call(self, request: ChatRequest) -> HttpCall:
        """POST :countTokens."""
        body = content_body(request)
        if not self._vertex:
            body = {"generateContentRequest": {"model": f"models/{self._model}", **body}}
        return HttpCall(url=f"{self._base}:countTokens", body=json_bytes(body))

    def counted(self, found: dict[str, Any]) -> int:
        """Its `totalTokens`."""
        return counted(found, "totalTokens")


def content_body(request: ChatRequest) -> dict[str, Any]:
    """The body of generateContent."""
    refuse_others(request, api=API, carried=(*_NAMES, "stop"))
    names: dict[str, str] = {}
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    for at, message in enumerate(request.messages):
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            if contents:
                raise unsupported(
                    f"{message.role.value} after the conversation began",
                    api=API,
                    param=f"messages[{at}].role",
                    way_out="put it at the start",
                )
            system += [{"text": p.text} for p in message.parts if isinstance(p, TextPart)]
            continue
        parts = _parts(message, at, names)
        role = "model" if message.role is Role.ASSISTANT else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    body: dict[str, Any] = {"contents": contents, "generationConfig": _config(request)}
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in request.tools]}]
        config: dict[str, Any] = {"mode": _MODES[request.tool_choice]}
        if request.tool_name is not None:
            config["allowedFunctionNames"] = [request.tool_name]
        body["toolConfig"] = {"functionCallingConfig": config}
    if not request.parallel_tool_calls:
        raise unsupported("false", api=API, param="parallel_tool_calls")
    return body


def _config(request: ChatRequest) -> dict[str, Any]:
    sampling, defaults = request.sampling, SamplingParams()
    config: dict[str, Any] = {}
    for name, theirs in _NAMES.items():
        value = getattr(sampling, name)
        if value is not None and (name in sampling.given or value != getattr(defaults, name)):
            config[theirs] = value
    if sampling.stop:
        config["stopSequences"] = list(sampling.stop)
    if request.format.kind is not FormatKind.TEXT:
        config["responseMimeType"] = "application/json"
    if request.format.kind is FormatKind.JSON_SCHEMA:
        config["responseJsonSchema"] = dict(request.format.schema or {})
    thinking: dict[str, Any] = {}
    wanted = request.reasoning
    if wanted.budget_tokens is not None:
        thinking = {"thinkingBudget": wanted.budget_tokens, "includeThoughts": True}
    elif wanted.enabled is False or wanted.effort == "none":
        thinking = {"thinkingBudget": 0}
    elif wanted.effort is not None:
        if wanted.effort not in _LEVELS:
            raise unsupported(
                wanted.effort,
                api=API,
                param="reasoning_effort",
                way_out=f"send one of {', '.join(_LEVELS)}",
            )
        thinking = {"thinkingLevel": wanted.effort, "includeThoughts": True}
    elif wanted.enabled:
        thinking = {"includeThoughts": True}
    if thinking:
        config["thinkingConfig"] = thinking
    return config


def _parts(message: Message, at: int, names: dict[str, str]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    signature = ""
    for number, part in enumerate(message.parts):
        if isinstance(part, ReasoningPart):
            # Thoughts are not read again; the proof of them is, on the part that follows.
            signature = part.signature
            continue
        found = _part(part, f"messages[{at}].content[{number}]", names)
        if signature and message.role is Role.ASSISTANT:
            found["thoughtSignature"] = signature
            signature = ""
        made.append(found)
    return made


def _part(part: Part, path: str, names: dict[str, str]) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"text": part.text}
        case ToolCallPart():
            names[part.id] = part.name
            call = {"name": part.name, "args": arguments_object(part, path), "id": part.id}
            return {"functionCall": call}
        case ToolResultPart():
            name = part.name or names.get(part.call_id)
            if name is None:
                raise InvalidParameter(f"`{path}` answers no call that was sent", param=path)
            key = "error" if part.is_error else "output"
            response = {"name": name, "response": {key: part.text}, "id": part.call_id}
            return {"functionResponse": response}
        case ImagePart() | AudioPart():
            url = part.url if isinstance(part, ImagePart) else None
            return _data(part.data, url, part.media_type)
        case DocumentPart():
            if part.data is None and part.url is None:
                return {"text": part.text}
            return _data(part.data, part.url, part.media_type)
        case ReasoningPart():
            raise AssertionError("read by the caller")


def _data(data: bytes | None, url: str | None, media_type: str) -> dict[str, Any]:
    if data is None:
        kind = {} if media_type.endswith("*") else {"mimeType": media_type}
        return {"fileData": {"fileUri": url, **kind}}
    return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(data).decode()}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    if tool.strict:
        raise unsupported("true", api=API, param=f"tools.{tool.name}.strict")
    body: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        body["description"] = tool.description
    if tool.parameters:
        body["parametersJsonSchema"] = dict(tool.parameters)
    return body
