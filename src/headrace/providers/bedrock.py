"""Amazon Bedrock's Converse API as a `Dialect`, and its signature by botocore.

The body is Converse's own shape for every model it hosts; what it cannot carry is refused by name.
Source: AWS's API reference, ConverseStream and Converse.
"""

import asyncio
import base64
from typing import Any
from urllib.parse import quote

from headrace.errors import ConfigError, HeadraceError, MissingExtra
from headrace.providers.anthropic import counted, http_base, json_bytes
from headrace.providers.anthropic_requests import arguments_object
from headrace.providers.bedrock_events import ConverseReader, error_of
from headrace.providers.limits import refuse_others, unsupported
from headrace.providers.provider import Authorize
from headrace.providers.upstream import EventReader, HttpCall
from headrace.types import (
    AudioPart,
    ChatRequest,
    DocumentPart,
    FormatKind,
    ImagePart,
    Message,
    Part,
    ReasoningParams,
    ReasoningPart,
    Role,
    SamplingParams,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)

API = "Bedrock's Converse API"
_NAMES = {"temperature": "temperature", "top_p": "topP", "max_tokens": "maxTokens"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/plain": "txt",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
}


class BedrockDialect:
    """One model of one region.

    Args:
        url: Of the endpoint; empty = the region's own.
        region: AWS's name of it.
        model: Model, inference profile or ARN.
    """

    def __init__(self, *, url: str, region: str, model: str) -> None:
        base = http_base(url or f"https://bedrock-runtime.{region}.amazonaws.com")
        self._model_url = f"{base}/model/{quote(model, safe='')}"

    def call(self, request: ChatRequest) -> HttpCall:
        """POST /model/{id}/converse-stream."""
        return HttpCall(
            url=f"{self._model_url}/converse-stream",
            body=json_bytes(converse_body(request)),
            answers="application/vnd.amazon.eventstream",
        )

    def reader(self, request: ChatRequest) -> EventReader:
        """Of the event stream."""
        return ConverseReader()

    def error(self, status: int, found: object, retry_after_s: int | None) -> HeadraceError:
        """Of an answer other than 200."""
        return error_of(found, status=status, retry_after_s=retry_after_s)

    def count_call(self, request: ChatRequest) -> HttpCall:
        """POST /model/{id}/count-tokens."""
        body = converse_body(request)
        body.pop("inferenceConfig", None)
        return HttpCall(
            url=f"{self._model_url}/count-tokens",
            body=json_bytes({"input": {"converse": body}}),
        )

    def counted(self, found: dict[str, Any]) -> int:
        """Its `inputTokens`."""
        return counted(found, "inputTokens")


def signed(*, region: str, profile: str = "") -> Authorize:
    """Signature version 4 by botocore, with the credentials that it finds where AWS's tools look.

    Raises:
        MissingExtra: botocore is not installed.
        ConfigError: There are no credentials, or no such profile.
    """
    try:
        import botocore.exceptions
        import botocore.session
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise MissingExtra(
            "Bedrock needs botocore to sign requests: pip install 'headrace[bedrock]'"
        ) from None
    try:
        session = botocore.session.Session(profile=profile or None)
        credentials = session.get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(f"AWS credentials: {error}") from error
    if credentials is None:
        raise ConfigError(
            "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "name a profile"
        )

    def sign(call: HttpCall) -> HttpCall:
        headers = {"Content-Type": "application/json", **call.headers}
        request = AWSRequest(method="POST", url=call.url, data=call.body, headers=headers)
        # A temporary credential may be renewed here, over the network: hence the thread.
        SigV4Auth(credentials.get_frozen_credentials(), "bedrock", region).add_auth(request)
        return HttpCall(
            url=call.url,
            body=call.body,
            headers=dict(request.headers.items()),
            answers=call.answers,
        )

    async def authorize(call: HttpCall) -> HttpCall:
        return await asyncio.to_thread(sign, call)

    return authorize


def converse_body(request: ChatRequest) -> dict[str, Any]:
    """The body of converse-stream."""
    refuse_others(request, api=API, carried=(*_NAMES, "stop"))
    if request.format.kind is not FormatKind.TEXT:
        raise unsupported(
            request.format.kind.value, api=API, param="response_format", way_out="force a tool"
        )
    if request.reasoning != ReasoningParams():
        raise unsupported("of this request", api=API, param="reasoning_effort")
    if not request.parallel_tool_calls:
        raise unsupported("false", api=API, param="parallel_tool_calls")
    sampling, defaults = request.sampling, SamplingParams()
    config: dict[str, Any] = {}
    for name, theirs in _NAMES.items():
        value = getattr(sampling, name)
        if value is not None and (name in sampling.given or value != getattr(defaults, name)):
            config[theirs] = value
    if sampling.stop:
        config["stopSequences"] = list(sampling.stop)
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for at, message in enumerate(request.messages):
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            if messages:
                raise unsupported(
                    f"{message.role.value} after the conversation began",
                    api=API,
                    param=f"messages[{at}].role",
                    way_out="put it at the start",
                )
            system += [
                {"text": p.text} for p in message.parts if isinstance(p, TextPart) and p.text
            ]
            continue
        _add(messages, message, at)
    if request.prompt_cache and messages:
        point: dict[str, Any] = {"type": "default"}
        if request.prompt_cache != "5m":
            point["ttl"] = request.prompt_cache
        messages[-1]["content"].append({"cachePoint": point})
    body: dict[str, Any] = {"messages": messages}
    if config:
        body["inferenceConfig"] = config
    if system:
        body["system"] = system
    if request.tools:
        body |= _tool_config(request)
    return body


def _add(messages: list[dict[str, Any]], message: Message, at: int) -> None:
    """Append, or join to the message before where the role is the same, as the API wants it."""
    role = "assistant" if message.role is Role.ASSISTANT else "user"
    blocks = [
        block
        for number, part in enumerate(message.parts)
        for block in _blocks(part, f"messages[{at}].content[{number}]", at, number)
    ]
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    elif blocks:
        messages.append({"role": role, "content": blocks})


def _tool_config(request: ChatRequest) -> dict[str, Any]:
    if request.tool_choice is ToolChoice.NONE:
        called = any(
            isinstance(part, ToolCallPart) for message in request.messages for part in message.parts
        )
        if called:
            raise unsupported(
                "none after a call",
                api=API,
                param="tool_choice",
                way_out="send auto, or messages without calls",
            )
        return {}  # without tools no call can be made, which is what none says
    choice: dict[str, Any] = {"auto": {}}
    if request.tool_choice is ToolChoice.REQUIRED:
        choice = {"any": {}} if request.tool_name is None else {"tool": {"name": request.tool_name}}
    return {"toolConfig": {"tools": [_tool(t) for t in request.tools], "toolChoice": choice}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = dict(tool.parameters) or {"type": "object", "properties": {}}
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": schema}}
    if tool.description is not None:
        spec["description"] = tool.description
    if tool.strict:
        spec["strict"] = True
    return {"toolSpec": spec}


def _blocks(part: Part, path: str, at: int, number: int) -> list[dict[str, Any]]:
    match part:
        case TextPart():
            return [{"text": part.text}] if part.text else []
        case ReasoningPart():
            if part.redacted:
                return [{"reasoningContent": {"redactedContent": part.signature}}]
            if not part.signature:
                return []  # another model's: the API takes none but its own, signed
            text = {"text": part.text, "signature": part.signature}
            return [{"reasoningContent": {"reasoningText": text}}]
        case ToolCallPart():
            found = arguments_object(part, path)
            return [{"toolUse": {"toolUseId": part.id, "name": part.name, "input": found}}]
        case ToolResultPart():
            status = {"status": "error"} if part.is_error else {}
            content = [{"text": part.text}]
            return [{"toolResult": {"toolUseId": part.call_id, "content": content, **status}}]
        case ImagePart():
            form = part.media_type.rpartition("/")[2]
            return [{"image": {"format": form, "source": _bytes(part.data, path)}}]
        case DocumentPart():
            form = _DOCUMENTS.get(part.media_type)
            if form is None:
                raise unsupported(part.media_type, api=API, param=path)
            data = part.text.encode() if part.data is None and part.url is None else part.data
            document = {
                "format": form,
                "name": f"document {at} {number}",  # the API forbids most characters of a title
                "source": _bytes(data, path),
            }
            return [{"document": document}]
        case AudioPart():
            raise unsupported(part.media_type, api=API, param=path, way_out="send text")


def _bytes(data: bytes | None, path: str) -> dict[str, Any]:
    if data is None:
        raise unsupported("at a URL", api=API, param=path, way_out="send the data itself")
    return {"bytes": base64.b64encode(data).decode()}
