"""The `messages` and `tools` of a chat request become `Message`s and `ToolSpec`s.

Every part gets the trust label of who wrote it: system and developer the operator, user the
caller, assistant the model, tool results nobody. A tool result must answer a call of an earlier
assistant message, as OpenAI demands. Of an assistant message's own past output, `refusal`,
`audio` and `function_call` are accepted where they are null or empty, `annotations` and `citations`
always, as clients send them back.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from headrace.errors import InvalidParameter, UnsupportedParameter
from headrace.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Integrity,
    Label,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from headrace.wire.json_body import Fields, array_at, object_at, one_of, shown, string_at

MAX_TOOLS = 1024
TOOL_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
DATA_URL = re.compile(r"data:([\w.+/-]+);base64,", re.ASCII)
LABELS = {
    Role.SYSTEM: Label(integrity=Integrity.SYSTEM),
    Role.DEVELOPER: Label(integrity=Integrity.SYSTEM),
    Role.USER: Label(integrity=Integrity.USER),
    Role.ASSISTANT: Label(integrity=Integrity.MODEL),
    Role.TOOL: Label(integrity=Integrity.UNTRUSTED),
}
_ROLES = {role.value: role for role in Role}
_ASSISTANT_LEFTOVERS = {"refusal": ("",), "audio": (), "function_call": ()}


def decode_messages(value: object, path: str = "messages") -> tuple[Message, ...]:
    """Read a conversation.

    Raises:
        InvalidParameter: No messages, or one that is malformed; the path says which.
        UnsupportedParameter: The role `function`, files, refusals.
    """
    if value is None:
        raise InvalidParameter(f"`{path}` is missing; send a list of at least one", param=path)
    items = array_at(value, path)
    if not items:
        raise InvalidParameter(f"`{path}` is empty; send at least one", param=path)
    called: set[str] = set()
    return tuple(
        _message(object_at(item, f"{path}[{at}]"), called) for at, item in enumerate(items)
    )


def decode_tools(fields: Fields) -> tuple[ToolSpec, ...]:
    """Read the functions that the model may call."""
    items = fields.array("tools") or []
    if len(items) > MAX_TOOLS:
        raise InvalidParameter(
            f"`tools` has {len(items)} entries; the limit is {MAX_TOOLS}", param="tools"
        )
    tools = tuple(_tool(object_at(item, f"tools[{at}]")) for at, item in enumerate(items))
    names = [tool.name for tool in tools]
    for at, name in enumerate(names):
        if name in names[:at]:
            path = f"tools[{at}].function.name"
            raise InvalidParameter(
                f"`{path}` {shown(name)} is taken by an earlier tool", param=path
            )
    return tools


def _message(fields: Fields, called: set[str]) -> Message:
    name = fields.required_string("role", max_chars=64)
    if name == "function":
        raise UnsupportedParameter(
            f"`{fields.at('role')}` function is the older name; send role tool with tool_call_id",
            param=fields.at("role"),
        )
    role = _ROLES.get(name)
    if role is None:
        role = Role(one_of(name, fields.at("role"), list(_ROLES)))
    if role is Role.TOOL:
        message = _tool_result(fields, called)
    elif role is Role.ASSISTANT:
        message = _assistant(fields, called)
    else:
        parts = _content(fields, role)
        message = Message(role=role, parts=parts, name=_name(fields))
    fields.close(without_effect=_ASSISTANT_LEFTOVERS if role is Role.ASSISTANT else None)
    return message


def _assistant(fields: Fields, called: set[str]) -> Message:
    parts: list[Part] = []
    reasoning = fields.string("reasoning_content")
    if reasoning:
        parts.append(ReasoningPart(text=reasoning))
    calls = fields.array("tool_calls") or []
    if fields.take("content") is not None or not calls:
        parts += _content(fields, Role.ASSISTANT)
    fields.array("annotations")  # what a client was told of an answer; its text is all that is read
    fields.array("citations")
    path = fields.at("tool_calls")
    parts += [_call(object_at(item, f"{path}[{at}]"), called) for at, item in enumerate(calls)]
    return Message(role=Role.ASSISTANT, parts=tuple(parts), name=_name(fields))


def _tool_result(fields: Fields, called: set[str]) -> Message:
    call_id = fields.required_string("tool_call_id", max_chars=256)
    if call_id not in called:
        path = fields.at("tool_call_id")
        raise InvalidParameter(
            f"`{path}` {shown(call_id)} answers no call of an earlier assistant message; "
            "send that message's tool_calls too",
            param=path,
        )
    texts = [part.text for part in _content(fields, Role.TOOL) if isinstance(part, TextPart)]
    result = ToolResultPart(call_id=call_id, text="".join(texts), name=fields.string("name"))
    return Message(role=Role.TOOL, parts=(result,))


def _call(fields: Fields, called: set[str]) -> ToolCallPart:
    _function_type(fields)
    function = _function(fields)
    call = ToolCallPart(
        id=fields.required_string("id", max_chars=256),
        name=function.required_string("name", max_chars=256),
        arguments=function.string("arguments") or "",
    )
    called.add(call.id)
    function.close()
    # Streams number their calls, and some clients send the number back.
    fields.integer("index", low=0, high=MAX_TOOLS)
    fields.close()
    return call


def _tool(fields: Fields) -> ToolSpec:
    _function_type(fields)
    function = _function(fields)
    name = function.required_string("name")
    if not TOOL_NAME.fullmatch(name):
        path = function.at("name")
        raise InvalidParameter(
            f"`{path}` {shown(name)} must be 1 to 64 letters, digits, dots, dashes or underscores",
            param=path,
        )
    tool = ToolSpec(
        name=name,
        description=function.string("description"),
        parameters=function.mapping("parameters") or {},
        strict=function.boolean("strict"),
    )
    function.close()
    fields.close()
    return tool


def _function(fields: Fields) -> Fields:
    function = fields.nested("function")
    if function is None:
        path = fields.at("function")
        raise InvalidParameter(f"`{path}` is missing; send an object with a name", param=path)
    return function


def _function_type(fields: Fields) -> None:
    kind = fields.string("type")
    if kind not in (None, "function"):
        path = fields.at("type")
        raise UnsupportedParameter(
            f"`{path}` {shown(kind)} is not supported; the only kind is function", param=path
        )


def _name(fields: Fields) -> str | None:
    return fields.string("name", max_chars=256)


def _content(fields: Fields, role: Role) -> tuple[Part, ...]:
    value, path, label = fields.take("content"), fields.at("content"), LABELS[role]
    if isinstance(value, str):
        return (TextPart(text=value, label=label),)
    if not isinstance(value, list):
        found = "missing" if value is None else "neither"
        raise InvalidParameter(
            f"`{path}` must be a string or a list of parts; it is {found}", param=path
        )
    items = array_at(value, path)
    if not items:
        raise InvalidParameter(f"`{path}` is an empty list; send at least one part", param=path)
    return tuple(
        _part(object_at(item, f"{path}[{at}]"), role, label) for at, item in enumerate(items)
    )


def _part(fields: Fields, role: Role, label: Label) -> Part:
    kind = fields.required_string("type", max_chars=64)
    path = fields.at("type")
    if kind == "refusal":
        raise UnsupportedParameter(
            f"`{path}` {kind} is not supported; send its text as a part of type text", param=path
        )
    one_of(kind, path, [*_PARTS] if role is Role.USER else ["text"])
    part = _PARTS[kind](fields, label)
    fields.close()
    return part


def _text(fields: Fields, label: Label) -> Part:
    value = fields.take("text")
    return TextPart(text=string_at(value, fields.at("text")), label=label)


def _image(fields: Fields, label: Label) -> Part:
    image = object_at(fields.take("image_url"), fields.at("image_url"))
    url = image.required_string("url")
    image.close(without_effect={"detail": ("auto",)})
    if not url.startswith("data:"):
        return ImagePart(media_type="image/*", url=url, label=label)
    found = DATA_URL.match(url)
    if found is None:
        raise InvalidParameter(
            f"`{image.at('url')}` must be data:TYPE;base64,... or an https address",
            param=image.at("url"),
        )
    data = base64_at(url[found.end() :], image.at("url"))
    return ImagePart(media_type=found.group(1), data=data, label=label)


def _file(fields: Fields, label: Label) -> Part:
    file = object_at(fields.take("file"), fields.at("file"))
    name = file.string("filename", max_chars=1024)
    url = file.required_string("file_data")
    file.close(unsupported={"file_id": "send the file itself as file_data"})
    found = DATA_URL.match(url)
    if found is None:
        path = file.at("file_data")
        raise InvalidParameter(f"`{path}` must be data:TYPE;base64,...", param=path)
    return DocumentPart(
        id=name or "file",
        text="",
        title=name,
        media_type=found.group(1),
        data=base64_at(url[found.end() :], file.at("file_data")),
        label=label,
    )


def _audio(fields: Fields, label: Label) -> Part:
    audio = object_at(fields.take("input_audio"), fields.at("input_audio"))
    kind = one_of(audio.required_string("format"), audio.at("format"), ("wav", "mp3"))
    data = base64_at(audio.required_string("data"), audio.at("data"))
    audio.close()
    return AudioPart(media_type=f"audio/{kind}", data=data, label=label)


def base64_at(text: str, path: str) -> bytes:
    """The bytes that a base64 field spells."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"`{path}` is not base64: {error}", param=path) from None


_PARTS: dict[str, Callable[[Fields, Label], Any]] = {
    "text": _text,
    "image_url": _image,
    "input_audio": _audio,
    "file": _file,
}
