"""POST /v1/chat/completions: bytes → `ChatCall`; events → chunks; `Collected` → the answer.

Every field of OpenAI's API is honoured, or refused by name; nothing is accepted and ignored. Values
that have no effect here, and are therefore accepted (null always is):

| field | accepted | why it has no effect |
|---|---|---|
| store | false | nothing is stored |
| service_tier | auto, default | there is one tier |
| modalities | ["text"] | the only one |
| metadata | {} | it belongs to stored answers |
| verbosity | medium | OpenAI's default |
| prompt_cache_key | any string | the prefix cache needs no hint |
| prompt_cache_retention | in_memory | the only kind |

`tool_choice` required or of one function, `parallel_tool_calls` false, `reasoning_effort`,
`response_format`, images, audio and files go to a provider that has them; the local engine refuses
them by name. `user` and `safety_identifier` go to the usage record. The extras are vLLM's (`top_k`,
`min_p`, `repetition_penalty`, `min_tokens`, `ignore_eos`, `stop_token_ids`,
`include_stop_str_in_output`, `return_token_ids`, `prompt_logprobs`, `chat_template_kwargs`,
`add_generation_prompt`, `continue_final_message`) and `deadline_s`, seconds until the answer is
cut.

An answer from sources has `annotations` and `citations` (`headrace.wire.citations`), in a stream in
a delta behind the text they speak of, and `not_in_sources` where it says that the sources do not.

In a stream the role comes in the first delta of each choice, the reason in its own last chunk, and
with `stream_options.include_usage` a chunk with no choices ends it. Source: OpenAI's API reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.errors import InvalidParameter
from headrace.types import (
    ChatRequest,
    Choice,
    Citation,
    Collected,
    Event,
    Finished,
    FormatKind,
    ReasoningDelta,
    ReasoningParams,
    ResponseFormat,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolSpec,
    Usage,
)
from headrace.wire import openai_answers as answers
from headrace.wire.citations import chat_fields
from headrace.wire.json_body import Fields, object_at, one_of, parse, shown
from headrace.wire.openai_messages import decode_messages, decode_tools
from headrace.wire.sampling import MAX_TOKENS, decode_logprobs, decode_sampling
from headrace.wire.sse import frame

MAX_DEADLINE_S = 86_400.0
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

WITHOUT_EFFECT: Mapping[str, Sequence[object]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "metadata": ({},),
    "verbosity": ("medium",),
    "prompt_cache_retention": ("in_memory",),
    "echo": (False,),
    "add_special_tokens": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "priority": (0,),
}
"""Field -> the values of it that change nothing; any other value is refused."""

_NO_GRAMMAR = "constrained decoding is not available; ask for the format in a message"
_UNSUPPORTED: Mapping[str, str] = {
    "audio": "answers are text",
    "function_call": "send tool_choice instead",
    "functions": "send tools instead",
    "metadata": "answers are not stored, so nothing would carry it",
    "moderation": "leave it out",
    "prediction": "leave it out",
    "prompt_cache_options": "the prefix cache is on and needs none",
    "store": "answers are not stored",
    "web_search_options": "there is no web search",
    "best_of": "send n and choose",
    "use_beam_search": "send temperature 0",
    "allowed_token_ids": "send logit_bias",
    "bad_words": "send logit_bias",
    "logits_processors": "send logit_bias",
    "chat_template": "the template is the model's; set model.chat_template where it is served",
    "documents": "send the text in a message",
    "guided_choice": _NO_GRAMMAR,
    "guided_grammar": _NO_GRAMMAR,
    "guided_json": _NO_GRAMMAR,
    "guided_regex": _NO_GRAMMAR,
    "structured_outputs": _NO_GRAMMAR,
    "truncate_prompt_tokens": "nothing is truncated; shorten the messages",
    "cache_salt": "each API key has its own cache",
    "request_id": "the server makes it; see the x-request-id header",
    "mm_processor_kwargs": "leave it out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatCall:
    """A decoded request: what to answer, and how to say it."""

    request: ChatRequest
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    end_user: str = ""
    """`safety_identifier`, or `user`: whom the caller asks for; in the usage record only."""


def decode(body: bytes) -> ChatCall:
    """Parse a request.

    Raises:
        UserError: Whatever is wrong with it; for any bytes there is nothing else to raise.
    """
    fields = parse(body)
    model = fields.required_string("model", max_chars=256)
    sampling = decode_sampling(
        fields, max_tokens=_max_tokens(fields), logprobs=decode_logprobs(fields)
    )
    stream = fields.boolean("stream")
    include_usage = decode_stream_options(fields, stream=stream)
    tools = decode_tools(fields)
    tool_choice, tool_name = _tool_choice(fields, tools)
    refuse_streamed_prompt_logprobs(sampling.prompt_logprobs, stream=stream)
    call = ChatCall(
        request=ChatRequest(
            model=model,
            messages=decode_messages(fields.take("messages")),
            tools=tools,
            tool_choice=tool_choice,
            tool_name=tool_name,
            parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
            reasoning=ReasoningParams(effort=_effort(fields)),
            sampling=sampling,
            format=_format(fields),
            template_kwargs=fields.mapping("chat_template_kwargs") or {},
            add_generation_prompt=_add_generation_prompt(fields),
            continue_final_message=fields.boolean("continue_final_message"),
            deadline_s=decode_deadline(fields),
        ),
        stream=stream,
        include_usage=include_usage,
        return_token_ids=fields.boolean("return_token_ids"),
        end_user=decode_end_user(fields),
    )
    fields.string("prompt_cache_key", max_chars=1024)
    fields.close(without_effect=WITHOUT_EFFECT, unsupported=_UNSUPPORTED)
    return call


def decode_render(body: bytes) -> ChatRequest:
    """Parse the body of POST /render: the fields of a chat request that shape its prompt."""
    fields = parse(body)
    request = render_fields(fields, model=fields.required_string("model", max_chars=256))
    fields.close()
    return request


def render_fields(fields: Fields, *, model: str) -> ChatRequest:
    """Take the fields that shape a prompt."""
    tools = decode_tools(fields)
    tool_choice, tool_name = _tool_choice(fields, tools)
    return ChatRequest(
        model=model,
        messages=decode_messages(fields.take("messages")),
        tools=tools,
        tool_choice=tool_choice,
        tool_name=tool_name,
        template_kwargs=fields.mapping("chat_template_kwargs") or {},
        add_generation_prompt=_add_generation_prompt(fields),
        continue_final_message=fields.boolean("continue_final_message"),
    )


def decode_stream_options(fields: Fields, *, stream: bool) -> bool:
    """Take `stream_options`; returns `include_usage`."""
    options = fields.nested("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidParameter("`stream_options` needs `stream`: true", param="stream_options")
    include_usage = options.boolean("include_usage")
    options.close(
        without_effect={"include_obfuscation": (False,), "continuous_usage_stats": (False,)},
        unsupported={"continuous_usage_stats": "usage comes once, in the last chunk"},
    )
    return include_usage


def decode_deadline(fields: Fields) -> float | None:
    """Take `deadline_s`."""
    return fields.number("deadline_s", low=0, high=MAX_DEADLINE_S, above=True)


def decode_end_user(fields: Fields) -> str:
    """Take `safety_identifier` and its older name `user`."""
    older, newer = (
        fields.string("user", max_chars=256),
        fields.string("safety_identifier", max_chars=256),
    )
    return newer or older or ""


def refuse_streamed_prompt_logprobs(wanted: int | None, *, stream: bool) -> None:
    """They come whole or not at all, as in vLLM."""
    if stream and wanted is not None:
        raise InvalidParameter(
            "`prompt_logprobs` cannot be streamed; send `stream`: false", param="prompt_logprobs"
        )


def encode(info: answers.AnswerInfo, collected: Collected) -> bytes:
    """The whole answer."""
    started = collected.started
    body = answers.head(info, started, "chat.completion")
    body["choices"] = [_choice(info, choice) for choice in collected.choices]
    body["usage"] = answers.usage_object(collected.usage)
    body["seed"] = started.seed
    if info.return_token_ids:
        body["prompt_token_ids"] = started.prompt_ids
    if started.prompt_logprobs is not None:
        body["prompt_logprobs"] = answers.prompt_logprobs(started.prompt_logprobs)
    return msgspec.json.encode(body)


class ChunkEncoder:
    """`push` each event of a stream, then `end`; both return SSE frames, perhaps none."""

    def __init__(self, info: answers.AnswerInfo) -> None:
        self._info = info
        self._head: dict[str, Any] = {}
        self._first: dict[str, Any] = {}
        self._spoken: set[int] = set()
        self._usage = Usage()

    def push(self, event: Event) -> bytes:
        """Frames of one event."""
        match event:
            case Started():
                self._head = answers.head(self._info, event, "chat.completion.chunk")
                if self._info.include_usage:
                    self._head["usage"] = None
                self._first = {"seed": event.seed}
                if self._info.return_token_ids:
                    self._first["prompt_token_ids"] = event.prompt_ids
                return b""
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                return self._delta(event)
            case Finished():
                self._usage = event.usage or self._usage
                finish = answers.finish_fields(event.reason, event.stop)
                if event.not_in_sources:
                    finish["not_in_sources"] = True
                return self._role(event.index) + self._chunk(event.index, {}, finish)
            case Citation():
                return self._role(event.index) + self._chunk(event.index, chat_fields([event]), {})

    def end(self) -> bytes:
        """The usage chunk, where it was asked for."""
        if not self._info.include_usage:
            return b""
        usage = answers.usage_object(self._usage)
        return frame(msgspec.json.encode({**self._head, "choices": [], "usage": usage}))

    def _delta(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> bytes:
        delta = _delta_fields(event)
        extra: dict[str, Any] = {}
        if self._info.logprobs and event.logprobs:
            extra["logprobs"] = answers.chat_logprobs(event.logprobs)
        if self._info.return_token_ids and event.token_ids:
            extra["token_ids"] = event.token_ids
        role = self._role(event.index)
        if not delta and not extra:
            return role  # the text is held back: a part of a character, or of a stop string
        return role + self._chunk(event.index, delta or {"content": ""}, extra)

    def _role(self, index: int) -> bytes:
        if index in self._spoken:
            return b""
        self._spoken.add(index)
        first, self._first = self._first, {}
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk(index, delta, {}, first)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        extra: dict[str, Any],
        top: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
        return frame(msgspec.json.encode({**self._head, **(top or {}), "choices": [choice]}))


def _delta_fields(event: TextDelta | ReasoningDelta | ToolCallDelta) -> dict[str, Any]:
    match event:
        case TextDelta():
            return {"content": event.text} if event.text else {}
        case ReasoningDelta():
            return {"reasoning_content": event.text} if event.text else {}
        case ToolCallDelta():
            call: dict[str, Any] = {"index": event.call}
            if event.id is not None:
                call |= {"id": event.id, "type": "function"}
            function = {"arguments": event.arguments}
            if event.name is not None:
                function = {"name": event.name, **function}
            return {"tool_calls": [{**call, "function": function}]}


def _choice(info: answers.AnswerInfo, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text if choice.text or not choice.tool_calls else None,
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in choice.tool_calls]
    message |= chat_fields(choice.citations)
    body: dict[str, Any] = {
        "index": choice.index,
        "message": message,
        "logprobs": answers.chat_logprobs(choice.logprobs) if info.logprobs else None,
        **answers.finish_fields(choice.finish, choice.stop),
    }
    if choice.not_in_sources:
        body["not_in_sources"] = True
    if info.return_token_ids:
        body["token_ids"] = choice.token_ids
    return body


def _tool_call(call: ToolCallPart) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _max_tokens(fields: Fields) -> int | None:
    older = fields.integer("max_tokens", low=1, high=MAX_TOKENS)
    newer = fields.integer("max_completion_tokens", low=1, high=MAX_TOKENS)
    if older is not None and newer is not None and older != newer:
        raise InvalidParameter(
            f"`max_tokens` {older} and `max_completion_tokens` {newer} differ; send one",
            param="max_completion_tokens",
        )
    return older if newer is None else newer


def _add_generation_prompt(fields: Fields) -> bool:
    """True unless said, or unless the last message is to be continued."""
    continued = fields.boolean("continue_final_message")
    wanted = fields.boolean("add_generation_prompt", default=not continued)
    if wanted and continued:
        raise InvalidParameter(
            "`add_generation_prompt` and `continue_final_message` exclude each other; "
            "set one to false",
            param="continue_final_message",
        )
    return wanted


def _tool_choice(fields: Fields, tools: Sequence[ToolSpec]) -> tuple[ToolChoice, str | None]:
    value = fields.take("tool_choice")
    if value is None:
        return ToolChoice.AUTO, None
    if isinstance(value, str):
        choice = ToolChoice(one_of(value, "tool_choice", [item.value for item in ToolChoice]))
        if choice is ToolChoice.REQUIRED:
            needs_tool(None, tools, path="tool_choice")
        return choice, None
    named = object_at(value, "tool_choice")
    one_of(named.required_string("type"), named.at("type"), ["function"])
    function = object_at(named.take("function"), named.at("function"))
    name = function.required_string("name")
    function.close()
    named.close()
    needs_tool(name, tools, path=function.at("name"))
    return ToolChoice.REQUIRED, name


def needs_tool(name: str | None, tools: Sequence[ToolSpec], *, path: str) -> None:
    """Refuse a forced call of a tool that was not sent; None = of any."""
    if tools and (name is None or name in [tool.name for tool in tools]):
        return
    known = ", ".join(tool.name for tool in tools) or "none"
    wanted = "any tool" if name is None else shown(name)
    raise InvalidParameter(
        f"`{path}` forces a call of {wanted}, but the tools sent are: {known}", param=path
    )


def _effort(fields: Fields) -> str | None:
    effort = fields.string("reasoning_effort")
    return None if effort is None else one_of(effort, "reasoning_effort", EFFORTS)


def _format(fields: Fields) -> ResponseFormat:
    wanted = fields.nested("response_format")
    if wanted is None:
        return ResponseFormat()
    kinds = [kind.value for kind in FormatKind]
    kind = FormatKind(one_of(wanted.required_string("type"), wanted.at("type"), kinds))
    schema = None
    if kind is FormatKind.JSON_SCHEMA:
        inner = wanted.nested("json_schema")
        if inner is None:
            path = wanted.at("json_schema")
            raise InvalidParameter(f"`{path}` is missing; send a name and a schema", param=path)
        inner.required_string("name", max_chars=64)
        inner.string("description")
        inner.boolean("strict")
        schema = inner.mapping("schema") or {}
        inner.close()
    wanted.close()
    return ResponseFormat(kind=kind, schema=schema)
