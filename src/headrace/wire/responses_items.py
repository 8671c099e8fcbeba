"""The input items of OpenAI's Responses API become `Message`s of typed parts.

What the model said (messages, calls, thoughts) is many items there and one message here; a call's
output must answer an earlier call. Every part gets the trust label of who wrote it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from headrace.errors import InvalidParameter, NotFound, UnsupportedParameter
from headrace.types import (
    DocumentPart,
    ImagePart,
    Label,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from headrace.wire.json_body import Fields, array_at, object_at, one_of, shown, string_at
from headrace.wire.openai_messages import DATA_URL, LABELS, base64_at

REDACTED = "redacted:"
"""Begins the `encrypted_content` of thoughts whose text is withheld altogether."""
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_ROLES = ("user", "assistant", "system", "developer")


def read_items(
    items: Sequence[object],
    *,
    earlier: Sequence[object] = (),
    found: Mapping[str, object] | None = None,
) -> tuple[Message, ...]:
    """The conversation that the items are.

    Args:
        items: As they came in `input`.
        earlier: Those of the responses that this one continues.
        found: What item references stand for, by id.

    Raises:
        InvalidParameter, UnsupportedParameter: An item that is malformed or of another kind.
        NotFound: A reference to what is not there.
    """
    reader = _Reader()
    for at, item in enumerate(earlier):
        reader.push(object_at(item, f"previous_response_id[{at}]"))
    for at, item in enumerate(items):
        fields = object_at(item, f"input[{at}]")
        id = reference(item)
        if id is not None:
            if id not in (found or {}):
                path = fields.at("id")
                raise NotFound(f"`{path}`: there is no item {shown(id)}", param=path)
            fields = object_at((found or {})[id], fields.path)
        reader.push(fields)
    return reader.end()


def reference(item: object) -> str | None:
    """The id that an item reference names; None for any other item.

    Raises: InvalidParameter for one without an id.
    """
    if not isinstance(item, dict):
        return None
    fields = Fields(cast("dict[str, Any]", item), path="input[]")
    if fields.take("type") != "item_reference":
        return None
    id = fields.required_string("id", max_chars=256)
    fields.close()
    return id


def stored_items(items: Sequence[Mapping[str, Any]], *, of: str) -> list[dict[str, Any]]:
    """Decoded input items as `input_items` lists them: each with an id of its own, contents as
    lists of parts. `of` is the response's id, which is in each item's.
    """
    made: list[dict[str, Any]] = []
    for at, item in enumerate(items):
        kind = item.get("type") or "message"
        stored = {key: value for key, value in item.items() if value is not None}
        stored |= {"type": kind, "status": item.get("status") or "completed"}
        stored["id"] = f"{_PREFIXES[kind]}_{of.removeprefix('resp_')}_i{at}"
        content = stored.get("content")
        if kind == "message" and isinstance(content, str):
            stored["content"] = [_text_part(content, spoken=stored["role"] == "assistant")]
        made.append(stored)
    return made


def user_message(text: str) -> dict[str, Any]:
    """The item that a bare text as `input` is."""
    return {"type": "message", "role": "user", "content": text}


def _text_part(text: str, *, spoken: bool) -> dict[str, Any]:
    if spoken:
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


class _Reader:
    """Items one by one → messages."""

    def __init__(self) -> None:
        self._called: set[str] = set()
        self._made: list[Message] = []
        self._said: list[Part] = []

    def push(self, fields: Fields) -> None:
        kind, path = fields.string("type") or "message", fields.at("type")
        fields.string("id")
        status = fields.string("status")
        if status is not None:
            one_of(status, fields.at("status"), ("in_progress", "completed", "incomplete"))
        match kind:
            case "message":
                role = Role(one_of(fields.required_string("role"), fields.at("role"), _ROLES))
                parts = _content(fields, role)
                if role is Role.ASSISTANT:
                    self._said += parts
                else:
                    self._add(Message(role=role, parts=parts))
                fields.close(without_effect={"phase": ("final_answer", "commentary")})
            case "function_call":
                self._said.append(_call(fields, self._called))
            case "reasoning":
                self._said.append(_reasoning(fields))
            case "function_call_output":
                self._add(_output(fields, self._called))
            case _:
                raise UnsupportedParameter(
                    f"`{path}` {shown(kind)} is not supported; there is: {', '.join(_PREFIXES)}, "
                    "item_reference",
                    param=path,
                )

    def end(self) -> tuple[Message, ...]:
        self._flush()
        return tuple(self._made)

    def _add(self, message: Message) -> None:
        self._flush()
        self._made.append(message)

    def _flush(self) -> None:
        if self._said:
            self._made.append(Message(role=Role.ASSISTANT, parts=tuple(self._said)))
            self._said = []


def _call(fields: Fields, called: set[str]) -> ToolCallPart:
    part = ToolCallPart(
        id=fields.required_string("call_id", max_chars=256),
        name=fields.required_string("name", max_chars=256),
        arguments=fields.string("arguments") or "",
    )
    fields.close()
    called.add(part.id)
    return part


def _output(fields: Fields, called: set[str]) -> Message:
    call_id, path = fields.required_string("call_id", max_chars=256), fields.at("call_id")
    if call_id not in called:
        raise InvalidParameter(
            f"`{path}` {shown(call_id)} answers no function_call of an earlier item", param=path
        )
    value, path = fields.take("output"), fields.at("output")
    if isinstance(value, str):
        text = value
    else:
        pieces: list[str] = []
        for at, item in enumerate(array_at(value, path)):
            inner = object_at(item, f"{path}[{at}]")
            one_of(inner.required_string("type"), inner.at("type"), ("input_text",))
            pieces.append(string_at(inner.take("text"), inner.at("text")))
            inner.close()
        text = "".join(pieces)
    fields.close()
    return Message(role=Role.TOOL, parts=(ToolResultPart(call_id=call_id, text=text),))


def _reasoning(fields: Fields) -> ReasoningPart:
    texts: list[str] = []
    for name, kind in (("content", "reasoning_text"), ("summary", "summary_text")):
        found: list[str] = []
        for at, item in enumerate(fields.array(name) or []):
            inner = object_at(item, f"{fields.at(name)}[{at}]")
            one_of(inner.required_string("type"), inner.at("type"), (kind,))
            found.append(string_at(inner.take("text"), inner.at("text")))
            inner.close()
        texts = texts or found  # a summary is of the same thoughts
    signature = fields.string("encrypted_content") or ""
    fields.close()
    return ReasoningPart(
        text="".join(texts),
        signature=signature.removeprefix(REDACTED),
        redacted=signature.startswith(REDACTED),
    )


def _content(fields: Fields, role: Role) -> tuple[Part, ...]:
    value, path, label = fields.take("content"), fields.at("content"), LABELS[role]
    if isinstance(value, str):
        return (TextPart(text=value, label=label),)
    if not value:
        raise InvalidParameter(f"`{path}` is missing or empty; send a text or parts", param=path)
    return tuple(
        _part(object_at(item, f"{path}[{at}]"), role, label)
        for at, item in enumerate(array_at(value, path))
    )


def _part(fields: Fields, role: Role, label: Label) -> Part:
    kind, path = fields.required_string("type", max_chars=64), fields.at("type")
    known = {
        Role.USER: ("input_text", "input_image", "input_file"),
        Role.ASSISTANT: ("output_text", "input_text"),
    }.get(role, ("input_text",))
    if kind not in known:
        raise UnsupportedParameter(
            f"`{path}` {shown(kind)} is not supported in a message of role {role.value}; "
            f"there is: {', '.join(known)}",
            param=path,
        )
    match kind:
        case "input_image":
            part: Part = _image(fields, label)
        case "input_file":
            part = _file(fields, label)
        case _:
            part = TextPart(text=string_at(fields.take("text"), fields.at("text")), label=label)
    if kind == "output_text":  # what a client was told of an answer; its text is all that is read
        fields.array("annotations")
        fields.array("citations")
        fields.close(without_effect={"logprobs": ([],)})
    else:
        fields.close()
    return part


def _image(fields: Fields, label: Label) -> ImagePart:
    url, path = fields.required_string("image_url"), fields.at("image_url")
    detail = fields.string("detail")
    if detail not in (None, "auto"):
        raise UnsupportedParameter(
            f"`{fields.at('detail')}` {shown(detail)} is not supported; send auto",
            param=fields.at("detail"),
        )
    if not url.startswith("data:"):
        return ImagePart(media_type="image/*", url=url, label=label)
    media_type, data = _data(url, path)
    return ImagePart(media_type=media_type, data=data, label=label)


def _file(fields: Fields, label: Label) -> DocumentPart:
    name = fields.string("filename", max_chars=1024)
    url = fields.string("file_url")
    if url is not None:
        return DocumentPart(
            id=name or "file",
            text="",
            title=name,
            media_type="application/pdf",
            url=url,
            label=label,
        )
    media_type, data = _data(fields.required_string("file_data"), fields.at("file_data"))
    return DocumentPart(
        id=name or "file", text="", title=name, media_type=media_type, data=data, label=label
    )


def _data(url: str, path: str) -> tuple[str, bytes]:
    found = DATA_URL.match(url)
    if found is None:
        raise InvalidParameter(f"`{path}` must be data:TYPE;base64,...", param=path)
    return found.group(1), base64_at(url[found.end() :], path)
