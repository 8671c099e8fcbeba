"""Messages → the dicts that chat templates expect, with every string knowing its part.

The shape is Hugging Face's: `role`, `content`, `tool_calls` whose `arguments` are an object where
the model wrote valid JSON, `tool` messages with `tool_call_id` and `name`, `reasoning_content`.
Roles are headrace's own words and count as the template's; everything else is content.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.tokens.provenance import LITERAL, Origin, Traced, concat, joined, traced
from headrace.tokens.tokenizer import encodable
from headrace.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Integrity,
    Label,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

Dict: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """What a template is given, and whose each dict of it is."""

    messages: list[Dict] = field(default_factory=list[Dict])
    tools: list[Dict] | None = None
    message_of: dict[int, int] = field(default_factory=dict[int, int])
    """id() of a message's dict -> its position in the request."""
    containers: dict[int, Origin] = field(default_factory=dict[int, Origin])
    """id() of a dict or list made of content -> where it came from."""


def convert(messages: Sequence[Message], tools: Sequence[ToolSpec], *, source: str) -> Conversation:
    """Build the dicts for a template whose text is `source`.

    Raises:
        InvalidParameter: No messages, or text that is not Unicode.
        UnsupportedParameter: An image or sound, which no text template can carry.
    """
    if not messages:
        raise InvalidParameter("`messages` is empty; send at least one", param="messages")
    conversation = Conversation()
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        for made in _dicts(conversation, message, index, names, source):
            conversation.messages.append(made)
            conversation.message_of[id(made)] = index
    if tools:
        origin = Origin(label=Label())
        conversation.tools = [_tool(conversation, tool, origin) for tool in tools]
    return conversation


def variables(values: Mapping[str, Any], conversation: Conversation) -> Dict:
    """The request's own template variables (`enable_thinking`), as content; `documents` are
    nobody's word, as a `DocumentPart` is."""
    ours = Origin(label=Label())
    theirs = Origin(label=Label(integrity=Integrity.UNTRUSTED))
    return {
        name: _deep(conversation, value, theirs if name == "documents" else ours, name)
        for name, value in values.items()
    }


@lru_cache(maxsize=64)
def wants_parts(source: str) -> bool:
    """Whether a template reads `content` only as a list of typed parts."""
    loops = re.search(r"\bfor\s+\w+\s+in\s+\w+(?:\.content|\[['\"]content['\"]\])\s*[-%|]", source)
    return loops is not None and not re.search(r"content['\"\])]*\s+is\s+(?:not\s+)?string", source)


def _dicts(
    conversation: Conversation, message: Message, index: int, names: dict[str, str], source: str
) -> list[Dict]:
    texts: list[Traced] = []
    reasoning: list[Traced] = []
    calls: list[Dict] = []
    results: list[Dict] = []
    for number, part in enumerate(message.parts):
        where = f"messages[{index}].content[{number}]"
        origin = Origin(message=index, part=number, role=message.role, label=part.label)
        match part:
            case DocumentPart() if part.data is not None or part.url is not None:
                raise UnsupportedParameter(
                    f"`{where}` is a document of {part.media_type}; this model reads text only",
                    param=where,
                )
            case TextPart() | DocumentPart():
                texts.append(_text(part.text, origin, where))
            case ReasoningPart():
                reasoning.append(_text(part.text, origin, where))
            case ToolCallPart():
                names[part.id] = part.name
                calls.append(_call(conversation, part, origin, where))
            case ToolResultPart():
                name = part.name or names.get(part.call_id)
                made: Dict = {
                    "role": traced("tool", LITERAL),
                    "content": _content([_text(part.text, origin, where)], source),
                    "tool_call_id": _text(part.call_id, origin, where),
                }
                if name:
                    made["name"] = _text(name, origin, where)
                results.append(_with_own_keys(made))
            case ImagePart() | AudioPart():
                raise UnsupportedParameter(
                    f"`{where}` is {part.media_type}; this model reads text only", param=where
                )
    if results and not (texts or reasoning or calls):
        return results
    made = {"role": _role(message.role, source), "content": _content(texts, source)}
    if message.name is not None:
        labels = [part.label for part in message.parts]
        origin = Origin(message=index, role=message.role, label=joined(labels))
        made["name"] = _text(message.name, origin, f"messages[{index}].name")
    if reasoning:
        made["reasoning_content"] = concat(reasoning)
    if calls:
        made["tool_calls"] = calls
    return [*results, _with_own_keys(made)]


def _role(role: Role, source: str) -> Traced:
    if role is Role.DEVELOPER and "developer" not in source:
        role = Role.SYSTEM
    return traced(role.value, LITERAL)


def _content(texts: list[Traced], source: str) -> Traced | list[Dict]:
    if not wants_parts(source):
        return concat(texts)
    return [_with_own_keys({"type": traced("text", LITERAL), "text": text}) for text in texts]


def _call(conversation: Conversation, part: ToolCallPart, origin: Origin, where: str) -> Dict:
    try:
        parsed = json.loads(part.arguments)
    except (ValueError, RecursionError):
        parsed = None
    arguments: Any = _text(part.arguments, origin, where)
    if isinstance(parsed, dict):
        arguments = _deep(conversation, parsed, origin, where)
    function = _with_own_keys({"name": _text(part.name, origin, where), "arguments": arguments})
    call = _with_own_keys(
        {
            "id": _text(part.id, origin, where),
            "type": traced("function", LITERAL),
            "function": function,
        }
    )
    conversation.containers[id(function)] = conversation.containers[id(call)] = origin
    return call


def _tool(conversation: Conversation, tool: ToolSpec, origin: Origin) -> Dict:
    function: Dict = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters)
    spec: Dict = {"type": "function", "function": function}
    return _deep(conversation, spec, origin, f"tools[{tool.name}]")


def _with_own_keys(made: Dict) -> Dict:
    """The dict with keys that print as headrace's own words (`message | tojson`)."""
    return {traced(key, LITERAL): value for key, value in made.items()}


def _deep(conversation: Conversation, value: Any, origin: Origin, where: str) -> Any:
    if isinstance(value, str):
        return _text(value, origin, where)
    if value is None or isinstance(value, bool | int | float):
        return value
    made: Any
    if isinstance(value, Mapping):
        made = {
            _text(str(key), origin, where): _deep(conversation, item, origin, where)
            for key, item in value.items()
        }
    elif isinstance(value, list | tuple):
        made = [_deep(conversation, item, origin, where) for item in value]
    else:
        raise InvalidParameter(
            f"`{where}` has a {type(value).__name__}, which is not JSON", param=where
        )
    conversation.containers[id(made)] = origin
    return made


def _text(text: str, origin: Origin, where: str) -> Traced:
    try:
        return traced(encodable(text), origin)
    except InvalidParameter as error:
        raise InvalidParameter(f"`{where}`: {error.message}", param=where) from None
