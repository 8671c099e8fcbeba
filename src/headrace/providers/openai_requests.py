"""Requests become the JSON bodies of OpenAI's protocol, with vLLM's names for what OpenAI lacks.

Invariant: what the caller set, or what differs from the default, is sent; nothing else is, so that
a server's own defaults hold. What the protocol cannot carry is refused by name.
"""

import base64
from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.providers.limits import refuse_others, unsupported
from headrace.types import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    DocumentPart,
    FormatKind,
    ImagePart,
    Message,
    ReasoningPart,
    ResponseFormat,
    Role,
    SamplingParams,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

_PLAIN = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "n",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
)
_OPENAI = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "n",
    "max_tokens",
    "stop",
    "logprobs",
)
API = "OpenAI's API"
_DEFAULTS = SamplingParams()


def chat_body(
    request: ChatRequest,
    *,
    model: str,
    return_token_ids: bool,
    strict: bool = False,
    stream: bool = True,
    continuous_usage: bool = False,
) -> dict[str, Any]:
    """The body of POST /chat/completions.

    Args:
        request: What to ask.
        model: The server's name of the model.
        return_token_ids: Ask for ids, as vLLM and headrace send them.
        strict: For OpenAI itself, which has no extras.
        continuous_usage: Ask for a count of tokens in every chunk, as vLLM sends it.
    """
    if strict:
        _refuse_extras(request)
    body = _sampling(request.sampling)
    if strict and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request)
    if not request.parallel_tool_calls:
        body["parallel_tool_calls"] = False
    body |= _reasoning(request)
    if request.format.kind is not FormatKind.TEXT:
        body["response_format"] = _format(request.format)
    if request.template_kwargs:
        body["chat_template_kwargs"] = dict(request.template_kwargs)
    if not request.add_generation_prompt:
        body["add_generation_prompt"] = False
    if request.continue_final_message:
        body["continue_final_message"] = True
    messages = [
        item for at, message in enumerate(request.messages) for item in _messages(at, message)
    ]
    made = _common(body, model, return_token_ids, stream=stream) | {"messages": messages}
    if continuous_usage and stream:
        made["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return made


def completion_body(
    request: CompletionRequest, *, model: str, return_token_ids: bool
) -> dict[str, Any]:
    """The body of POST /completions."""
    body = _sampling(request.sampling)
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    if request.echo:
        body["echo"] = True
    if not request.add_special_tokens:
        body["add_special_tokens"] = False
    prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    return _common(body, model, return_token_ids) | {"prompt": prompt}


def _common(
    body: dict[str, Any], model: str, return_token_ids: bool, *, stream: bool = True
) -> dict[str, Any]:
    body["model"] = model
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if return_token_ids:
        body["return_token_ids"] = True
    return body


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    if sampling.prompt_logprobs is not None:
        raise UnsupportedParameter(
            "`prompt_logprobs` cannot be streamed from another server; ask it of a local engine",
            param="prompt_logprobs",
        )
    body: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(sampling, name)
        if value is not None and (name in sampling.given or value != getattr(_DEFAULTS, name)):
            body[name] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.stop_token_ids:
        body["stop_token_ids"] = list(sampling.stop_token_ids)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.include_stop:
        body["include_stop_str_in_output"] = True
    return body


def _refuse_extras(request: ChatRequest) -> None:
    refuse_others(request, api=API, carried=_OPENAI)
    if request.continue_final_message or not request.add_generation_prompt:
        raise unsupported(
            "of the assistant at the end",
            api=API,
            param="messages",
            way_out="end with a message of the user",
        )


def _tool_choice(request: ChatRequest) -> Any:
    if request.tool_name is None:
        return request.tool_choice.value
    return {"type": "function", "function": {"name": request.tool_name}}


def _reasoning(request: ChatRequest) -> dict[str, Any]:
    wanted = request.reasoning
    if wanted.budget_tokens is not None:
        raise unsupported(
            str(wanted.budget_tokens),
            api=API,
            param="thinking.budget_tokens",
            way_out="name an effort",
        )
    if wanted.effort is not None:
        return {"reasoning_effort": wanted.effort}
    if wanted.enabled is False:
        return {"reasoning_effort": "none"}
    return {}  # a model that reasons does so unasked


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": dict(tool.parameters)}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _format(wanted: ResponseFormat) -> Mapping[str, Any]:
    if wanted.kind is FormatKind.JSON_OBJECT:
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": dict(wanted.schema or {}), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _messages(at: int, message: Message) -> list[dict[str, Any]]:
    """One message, or for tool results one each, as the protocol has it."""
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if message.role is Role.TOOL:
        if len(results) != len(message.parts) or not results:
            raise InvalidParameter(
                f"messages[{at}] has role tool, so it holds tool results and nothing else",
                param=f"messages[{at}]",
            )
        return [
            {"role": "tool", "tool_call_id": part.call_id, "content": part.text} for part in results
        ]
    answer: dict[str, Any] = {"role": message.role.value}
    if message.name is not None:
        answer["name"] = message.name
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    reasoning: list[str] = []
    for number, part in enumerate(message.parts):
        match part:
            case DocumentPart() if part.data is not None:
                content.append({"type": "file", "file": _file(part)})
            case DocumentPart() if part.url is not None:
                raise unsupported(
                    "at a URL",
                    api=API,
                    param=f"messages[{at}].content[{number}]",
                    way_out="send the data itself",
                )
            case TextPart() | DocumentPart():
                content.append({"type": "text", "text": part.text})
            case ImagePart():
                content.append({"type": "image_url", "image_url": {"url": _image_url(part)}})
            case AudioPart():
                audio = {
                    "data": base64.b64encode(part.data).decode(),
                    "format": part.media_type.rpartition("/")[2],
                }
                content.append({"type": "input_audio", "input_audio": audio})
            case ToolCallPart():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            case ReasoningPart():
                reasoning.append(part.text)
            case ToolResultPart():
                path = f"messages[{at}].parts[{number}]"
                raise InvalidParameter(
                    f"{path} is a tool result in a message of role {message.role.value}; "
                    "give it a message of role tool",
                    param=path,
                )
    only_text = len(content) == 1 and content[0]["type"] == "text"
    answer["content"] = content[0]["text"] if only_text else (content or None)
    if content == [] and not calls:
        answer["content"] = ""
    if calls:
        answer["tool_calls"] = calls
    if reasoning:
        answer["reasoning_content"] = "".join(reasoning)
    return [answer]


def _file(part: DocumentPart) -> dict[str, Any]:
    data = base64.b64encode(part.data or b"").decode()
    return {"filename": part.title or part.id, "file_data": f"data:{part.media_type};base64,{data}"}


def _image_url(part: ImagePart) -> str:
    if part.data is not None:
        return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    if part.url is None:
        raise InvalidParameter("an image needs data or a url", param="messages")
    return part.url
