"""POST /v1/messages and /v1/messages/count_tokens: bytes → one `ChatRequest`.

Every field of Anthropic's API is honoured, or refused by name. What the request's model cannot do
(images, forced tools, thinking budgets for a local engine) its backend refuses. Values without
effect, accepted: `service_tier` auto and standard_only, `speed` standard, `thinking.display`
summarized, `citations` off, `metadata` beyond `user_id`. All `cache_control` marks of a request
become one wish, that its prompt be cached for the longest ttl named. A last message of the
assistant is continued. Source: Anthropic's API reference.
"""

from dataclasses import dataclass
from typing import Any

from headrace.errors import InvalidParameter
from headrace.types import (
    ChatRequest,
    FormatKind,
    Message,
    ReasoningParams,
    ResponseFormat,
    Role,
    SamplingParams,
    TextPart,
    ToolChoice,
    ToolSpec,
)
from headrace.wire.anthropic_blocks import BlockReader, Caching
from headrace.wire.json_body import Fields, array_at, object_at, one_of, parse, shown
from headrace.wire.openai_chat import EFFORTS, needs_tool
from headrace.wire.openai_messages import LABELS, MAX_TOOLS, TOOL_NAME
from headrace.wire.sampling import MAX_STOP_CHARS, MAX_STOPS, MAX_TOKENS

WITHOUT_EFFECT = {"service_tier": ("auto", "standard_only"), "speed": ("standard",)}
_UNSUPPORTED = {
    "billing_policy": "limits and prices are set where a model is served",
    "compaction": "nothing is shortened; send the messages as they shall be read",
    "container": "there are no containers here",
    "context_management": "nothing is edited; send the messages as they shall be read",
    "diagnostics": "leave it out",
    "fallback_credit_token": "leave it out",
    "fallbacks": "fallbacks are set where a model is served (routes.NAME.fallback)",
    "inference_geo": "where a model runs is set where it is served",
    "mcp_servers": "send the servers' tools as tools",
    "prefill": "end the messages with one of role assistant",
    "service_tier": "there is one tier",
    "speed": "there is one speed",
    "thread": "messages are not kept; send them all",
    "user_profile_id": "leave it out",
    "workspace_id": "leave it out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MessagesCall:
    """A decoded request: what to answer, and how to say it."""

    request: ChatRequest
    stream: bool = False
    end_user: str = ""


def decode(body: bytes) -> MessagesCall:
    """Parse a request for a message.

    Raises:
        UserError: Whatever is wrong with it; for any bytes there is nothing else to raise.
    """
    fields = parse(body)
    max_tokens = fields.integer("max_tokens", low=1, high=MAX_TOKENS)
    if max_tokens is None:
        raise InvalidParameter("`max_tokens` is missing; send an integer", param="max_tokens")
    found: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": fields.number("temperature", low=0, high=1),
        "top_p": fields.number("top_p", low=0, high=1, above=True),
        "top_k": fields.integer("top_k", low=0, high=MAX_TOKENS),
        "stop": _stops(fields),
    }
    given = {name: value for name, value in found.items() if value is not None}
    sampling = SamplingParams(**given, given=frozenset(given))
    metadata = fields.nested("metadata")
    end_user = "" if metadata is None else (metadata.string("user_id", max_chars=256) or "")
    call = MessagesCall(
        request=_prompt(fields, sampling, max_tokens=max_tokens),
        stream=fields.boolean("stream"),
        end_user=end_user,
    )
    fields.close(without_effect=WITHOUT_EFFECT, unsupported=_UNSUPPORTED)
    return call


def decode_count(body: bytes) -> ChatRequest:
    """Parse the body of POST /v1/messages/count_tokens: the fields that shape a prompt."""
    fields = parse(body)
    request = _prompt(fields, SamplingParams(), max_tokens=None)
    fields.close(without_effect={"speed": ("standard",)}, unsupported=_UNSUPPORTED)
    return request


def _prompt(fields: Fields, sampling: SamplingParams, *, max_tokens: int | None) -> ChatRequest:
    caching = Caching()
    caching.take(fields)
    model = fields.required_string("model", max_chars=256)
    messages = _messages(fields, caching)
    tools = _tools(fields, caching)
    choice, name, parallel = _tool_choice(fields, tools)
    effort, form = _output_config(fields)
    enabled, budget = _thinking(fields, max_tokens)
    continued = messages[-1].role is Role.ASSISTANT
    return ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=parallel,
        sampling=sampling,
        format=form,
        reasoning=ReasoningParams(enabled=enabled, effort=effort, budget_tokens=budget),
        prompt_cache=caching.ttl,
        add_generation_prompt=not continued,
        continue_final_message=continued,
    )


def _messages(fields: Fields, caching: Caching) -> tuple[Message, ...]:
    reader = BlockReader(caching)
    system = fields.take("system")
    made: list[Message] = []
    if isinstance(system, str):
        if system:
            text = TextPart(text=system, label=LABELS[Role.SYSTEM])
            made.append(Message(role=Role.SYSTEM, parts=(text,)))
    elif system is not None:
        made += reader.read(array_at(system, "system"), "system", Role.SYSTEM)
    items = fields.array("messages")
    if not items:
        raise InvalidParameter(
            "`messages` is missing or empty; send at least one", param="messages"
        )
    for at, item in enumerate(items):
        message = object_at(item, f"messages[{at}]")
        role = one_of(
            message.required_string("role", max_chars=64),
            message.at("role"),
            ("user", "assistant", "system"),
        )
        content, path = message.take("content"), message.at("content")
        message.close()
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        elif content is None:
            raise InvalidParameter(f"`{path}` is missing; send text or blocks", param=path)
        made += reader.read(array_at(content, path), path, Role(role))
    return tuple(made)


def _stops(fields: Fields) -> tuple[str, ...] | None:
    items = fields.array("stop_sequences")
    if items is None:
        return None
    if len(items) > MAX_STOPS:
        raise InvalidParameter(
            f"`stop_sequences` has {len(items)} strings; the limit is {MAX_STOPS}",
            param="stop_sequences",
        )
    for at, item in enumerate(items):
        path = f"stop_sequences[{at}]"
        if not isinstance(item, str) or not 0 < len(item) <= MAX_STOP_CHARS:
            raise InvalidParameter(
                f"`{path}` must be a string of 1 to {MAX_STOP_CHARS} characters", param=path
            )
    return tuple(items) or None


def _tools(fields: Fields, caching: Caching) -> tuple[ToolSpec, ...]:
    items = fields.array("tools") or []
    if len(items) > MAX_TOOLS:
        raise InvalidParameter(
            f"`tools` has {len(items)} entries; the limit is {MAX_TOOLS}", param="tools"
        )
    tools: list[ToolSpec] = []
    for at, item in enumerate(items):
        tool = object_at(item, f"tools[{at}]")
        kind = tool.string("type") or "custom"
        if kind != "custom":
            raise InvalidParameter(
                f"`{tool.at('type')}` {shown(kind)} runs at Anthropic's; send a tool of your own "
                "with an input_schema",
                param=tool.at("type"),
            )
        name = tool.required_string("name")
        path = tool.at("name")
        if not TOOL_NAME.fullmatch(name):
            raise InvalidParameter(
                f"`{path}` {shown(name)} must be 1 to 64 letters, digits, dots, dashes or "
                "underscores",
                param=path,
            )
        if name in [other.name for other in tools]:
            raise InvalidParameter(
                f"`{path}` {shown(name)} is taken by an earlier tool", param=path
            )
        schema = tool.mapping("input_schema")
        if schema is None:
            path = tool.at("input_schema")
            raise InvalidParameter(f"`{path}` is missing; send a JSON Schema", param=path)
        tools.append(
            ToolSpec(
                name=name,
                description=tool.string("description"),
                parameters=schema,
                strict=tool.boolean("strict"),
            )
        )
        caching.take(tool)
        tool.close(without_effect={"defer_loading": (False,), "allowed_callers": (["direct"],)})
    return tuple(tools)


def _tool_choice(
    fields: Fields, tools: tuple[ToolSpec, ...]
) -> tuple[ToolChoice, str | None, bool]:
    wanted = fields.nested("tool_choice")
    if wanted is None:
        return ToolChoice.AUTO, None, True
    kind = one_of(
        wanted.required_string("type"), wanted.at("type"), ("auto", "any", "tool", "none")
    )
    name = wanted.required_string("name") if kind == "tool" else None
    parallel = not wanted.boolean("disable_parallel_tool_use")
    wanted.close()
    if kind in ("any", "tool"):
        needs_tool(name, tools, path="tool_choice.name")
        return ToolChoice.REQUIRED, name, parallel
    return ToolChoice(kind), None, parallel


def _thinking(fields: Fields, max_tokens: int | None) -> tuple[bool | None, int | None]:
    wanted = fields.nested("thinking")
    if wanted is None:
        return None, None
    kind = one_of(
        wanted.required_string("type"), wanted.at("type"), ("enabled", "disabled", "adaptive")
    )
    budget = None
    if kind == "enabled":
        budget = wanted.integer("budget_tokens", low=1024, high=MAX_TOKENS)
        path = wanted.at("budget_tokens")
        if budget is None:
            raise InvalidParameter(f"`{path}` is missing; send at least 1024", param=path)
        if max_tokens is not None and budget >= max_tokens:
            raise InvalidParameter(
                f"`{path}` {budget} must be below `max_tokens` {max_tokens}", param=path
            )
    wanted.close(without_effect={"display": ("summarized",)})
    return kind != "disabled", budget


def _output_config(fields: Fields) -> tuple[str | None, ResponseFormat]:
    wanted = fields.nested("output_config")
    if wanted is None:
        return None, ResponseFormat()
    effort = wanted.string("effort")
    if effort is not None:
        one_of(effort, wanted.at("effort"), EFFORTS)
    inner = wanted.nested("format")
    wanted.close()
    if inner is None:
        return effort, ResponseFormat()
    one_of(inner.required_string("type"), inner.at("type"), ("json_schema",))
    schema = inner.mapping("schema")
    if schema is None:
        path = inner.at("schema")
        raise InvalidParameter(f"`{path}` is missing; send a JSON Schema", param=path)
    inner.close()
    return effort, ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=schema)
