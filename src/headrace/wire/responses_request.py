"""POST /v1/responses: bytes → `ResponsesCall`, over the one `ChatRequest`.

Every field of OpenAI's API is honoured, or refused by name. A request that continues a stored
response, or refers to stored items, is decoded in two steps: `decode`, and `resume` with what the
store has. Values without effect, accepted: `service_tier` auto and default, `truncation` disabled,
`verbosity` medium, `reasoning.summary` auto (thoughts come as text), `prompt_cache_key`. `metadata`
is given back. Source: OpenAI's API reference; Open Responses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.errors import InvalidParameter, UnsupportedParameter
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
from headrace.wire.json_body import Fields, array_at, object_at, one_of, parse, shown, string_at
from headrace.wire.openai_chat import EFFORTS, decode_deadline, decode_end_user, needs_tool
from headrace.wire.openai_messages import LABELS, MAX_TOOLS, TOOL_NAME
from headrace.wire.responses_items import read_items, reference, user_message
from headrace.wire.sampling import MAX_TOKENS

ENCRYPTED = "reasoning.encrypted_content"
_MAX_METADATA = 16
WITHOUT_EFFECT: dict[str, Sequence[object]] = {
    "background": (False,),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "prompt_cache_retention": ("in_memory",),
}
_UNSUPPORTED = {
    "access_programs": "leave it out",
    "background": "answers come while one waits",
    "background_options": "answers come while one waits",
    "context_management": "nothing is edited; send the items as they shall be read",
    "conversation": "send previous_response_id, or the items as input",
    "image": "answers are text",
    "max_tool_calls": "there are no tools that run here",
    "moderation": "leave it out",
    "prompt": "send the text itself",
    "prompt_cache_options": "the prefix cache is on and needs none",
    "truncation": "nothing is truncated; shorten the input",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponsesCall:
    """A decoded request: what to answer, and how to say it."""

    request: ChatRequest
    stream: bool = False
    end_user: str = ""
    instructions: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    encrypted: bool = False
    """Whether thoughts come with their signatures, to be sent back."""
    items: tuple[dict[str, Any], ...] = ()
    """Of `input`, as they came; a text is a user's message."""
    previous: str = ""
    """The stored response that this one continues."""
    references: tuple[str, ...] = ()
    """Ids of stored items among `items`."""
    store: bool | None = None
    """Whether to keep the answer; None = it was not said."""

    @property
    def resumes(self) -> bool:
        """Whether `request` is not whole before `resume`."""
        return bool(self.previous or self.references)


def decode(body: bytes) -> ResponsesCall:
    """Parse a request.

    Raises:
        UserError: Whatever is wrong with it; for any bytes there is nothing else to raise.
    """
    fields = parse(body)
    model = fields.required_string("model", max_chars=256)
    instructions = fields.string("instructions")
    tools = _tools(fields)
    choice, name = _tool_choice(fields, tools)
    found: dict[str, Any] = {
        "max_tokens": fields.integer("max_output_tokens", low=1, high=MAX_TOKENS),
        "temperature": fields.number("temperature", low=0, high=2),
        "top_p": fields.number("top_p", low=0, high=1, above=True),
        "presence_penalty": fields.number("presence_penalty", low=-2, high=2),
        "frequency_penalty": fields.number("frequency_penalty", low=-2, high=2),
    }
    given = {key: value for key, value in found.items() if value is not None}
    stream = fields.boolean("stream")
    items = _items(fields)
    _stream_options(fields, stream=stream)
    call = ResponsesCall(
        request=ChatRequest(
            model=model,
            messages=(),
            tools=tools,
            tool_choice=choice,
            tool_name=name,
            parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
            sampling=SamplingParams(**given, given=frozenset(given)),
            format=_text(fields),
            reasoning=_reasoning(fields),
            deadline_s=decode_deadline(fields),
        ),
        stream=stream,
        end_user=decode_end_user(fields),
        instructions=instructions,
        metadata=_metadata(fields),
        encrypted=_include(fields),
        items=items,
        previous=fields.string("previous_response_id", max_chars=256) or "",
        references=tuple(id for item in items if (id := reference(item)) is not None),
        store=fields.boolean("store") if fields.take("store") is not None else None,
    )
    fields.string("prompt_cache_key", max_chars=1024)
    fields.close(without_effect=WITHOUT_EFFECT, unsupported=_UNSUPPORTED)
    return call if call.resumes else resume(call)


def resume(
    call: ResponsesCall,
    *,
    earlier: Sequence[object] = (),
    found: Mapping[str, dict[str, Any]] | None = None,
) -> ResponsesCall:
    """The call with its conversation: instructions, what came before it, its own items.

    Args:
        call: As decoded.
        earlier: The items up to and with the answer that it continues; instructions of then are not
            among them.
        found: What its references stand for, by id.

    Raises: As `read_items`.
    """
    made: list[Message] = []
    if call.instructions:
        text = TextPart(text=call.instructions, label=LABELS[Role.DEVELOPER])
        made.append(Message(role=Role.DEVELOPER, parts=(text,)))
    made += read_items(call.items, earlier=earlier, found=found)
    items = [(found or {}).get(reference(item) or "", item) for item in call.items]
    request = replace(call.request, messages=tuple(made))
    return replace(call, request=request, items=tuple(items))


def _items(fields: Fields) -> tuple[dict[str, Any], ...]:
    value = fields.take("input")
    if isinstance(value, str):
        return (user_message(value),)
    if not value:
        raise InvalidParameter(
            "`input` is missing or empty; send a text or a list of items", param="input"
        )
    items = array_at(value, "input")
    for at, item in enumerate(items):
        object_at(item, f"input[{at}]")
    return tuple(items)


def _tools(fields: Fields) -> tuple[ToolSpec, ...]:
    items = fields.array("tools") or []
    if len(items) > MAX_TOOLS:
        raise InvalidParameter(
            f"`tools` has {len(items)} entries; the limit is {MAX_TOOLS}", param="tools"
        )
    tools: list[ToolSpec] = []
    for at, item in enumerate(items):
        tool = object_at(item, f"tools[{at}]")
        kind, path = tool.required_string("type", max_chars=64), tool.at("type")
        if kind != "function":
            raise UnsupportedParameter(
                f"`{path}` {shown(kind)} is not supported; the only kind is function", param=path
            )
        name, path = tool.required_string("name"), tool.at("name")
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
        tools.append(
            ToolSpec(
                name=name,
                description=tool.string("description"),
                parameters=tool.mapping("parameters") or {},
                strict=tool.boolean("strict"),
            )
        )
        tool.close()
    return tuple(tools)


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
    name = named.required_string("name")
    named.close()
    needs_tool(name, tools, path=named.at("name"))
    return ToolChoice.REQUIRED, name


def _text(fields: Fields) -> ResponseFormat:
    text = fields.nested("text")
    if text is None:
        return ResponseFormat()
    wanted = text.nested("format")
    text.close(without_effect={"verbosity": ("medium",)})
    if wanted is None:
        return ResponseFormat()
    kinds = [kind.value for kind in FormatKind]
    kind = FormatKind(one_of(wanted.required_string("type"), wanted.at("type"), kinds))
    schema = None
    if kind is FormatKind.JSON_SCHEMA:
        wanted.required_string("name", max_chars=64)
        wanted.string("description")
        wanted.boolean("strict")
        schema = wanted.mapping("schema")
        if schema is None:
            path = wanted.at("schema")
            raise InvalidParameter(f"`{path}` is missing; send a JSON Schema", param=path)
    wanted.close()
    return ResponseFormat(kind=kind, schema=schema)


def _reasoning(fields: Fields) -> ReasoningParams:
    wanted = fields.nested("reasoning")
    if wanted is None:
        return ReasoningParams()
    effort = wanted.string("effort")
    if effort is not None:
        one_of(effort, wanted.at("effort"), EFFORTS)
    wanted.close(without_effect={"summary": ("auto",), "generate_summary": ("auto",)})
    return ReasoningParams(effort=effort)


def _stream_options(fields: Fields, *, stream: bool) -> None:
    options = fields.nested("stream_options")
    if options is None:
        return
    if not stream:
        raise InvalidParameter("`stream_options` needs `stream`: true", param="stream_options")
    options.close(without_effect={"include_obfuscation": (False,)})


def _include(fields: Fields) -> bool:
    items = fields.array("include") or []
    for at, item in enumerate(items):
        if item != ENCRYPTED:
            path = f"include[{at}]"
            raise UnsupportedParameter(
                f"`{path}` {shown(item)} is not supported; there is: {ENCRYPTED}", param=path
            )
    return bool(items)


def _metadata(fields: Fields) -> dict[str, str]:
    found = fields.mapping("metadata") or {}
    if len(found) > _MAX_METADATA:
        raise InvalidParameter(
            f"`metadata` has {len(found)} entries; the limit is {_MAX_METADATA}", param="metadata"
        )
    for key, value in found.items():
        string_at(key, "metadata", max_chars=64)
        string_at(value, f"metadata.{key[:64]}", max_chars=512)
    return found
