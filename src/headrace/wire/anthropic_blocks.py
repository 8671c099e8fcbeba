"""The content blocks of Anthropic's messages become `Message`s of typed parts.

A user's message that holds tool results becomes one message of role tool for each, as every other
protocol has it, and one of the user with the rest. Every part gets the trust label of who wrote it.
"""

import json
from collections.abc import Callable, Sequence

from headrace.errors import InvalidParameter, UnsupportedParameter
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
from headrace.wire.openai_messages import LABELS, base64_at

_TTLS = ("", "5m", "1h")


class Caching:
    """Gathers the `cache_control` marks of a request into the longest wish."""

    def __init__(self) -> None:
        self.ttl = ""

    def take(self, fields: Fields) -> None:
        """Take the mark of one object, if it has one."""
        mark = fields.nested("cache_control")
        if mark is None:
            return
        one_of(mark.required_string("type"), mark.at("type"), ("ephemeral",))
        ttl = one_of(mark.string("ttl") or "5m", mark.at("ttl"), _TTLS[1:])
        mark.close()
        self.ttl = max(self.ttl, ttl, key=_TTLS.index)


class BlockReader:
    """Reads one message's blocks after the other; a result must answer an earlier call."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching
        self._called: set[str] = set()

    def read(self, items: Sequence[object], path: str, role: Role) -> list[Message]:
        """The messages that one message's blocks become.

        Raises:
            InvalidParameter, UnsupportedParameter: A block that is malformed or of a kind that
                this role has not.
        """
        if not items:
            raise InvalidParameter(f"`{path}` is empty; send at least one block", param=path)
        results: list[Message] = []
        parts: list[Part] = []
        for at, item in enumerate(items):
            fields = object_at(item, f"{path}[{at}]")
            part = self._part(fields, role)
            if isinstance(part, ToolResultPart):
                results.append(Message(role=Role.TOOL, parts=(part,)))
            else:
                parts.append(part)
        return [*results, *([Message(role=role, parts=tuple(parts))] if parts else [])]

    def _part(self, fields: Fields, role: Role) -> Part:
        kind, path = fields.required_string("type", max_chars=64), fields.at("type")
        known = {
            Role.USER: ("text", "image", "document", "tool_result"),
            Role.ASSISTANT: ("text", "thinking", "redacted_thinking", "tool_use"),
            Role.SYSTEM: ("text",),
        }[role]
        if kind not in known:
            raise UnsupportedParameter(
                f"`{path}` {shown(kind)} is not supported in a message of role {role.value}; "
                f"there is: {', '.join(known)}",
                param=path,
            )
        self._caching.take(fields)
        part = self._readers()[kind](fields, LABELS[role])
        if kind == "text":  # what a client was told of an answer; its text is all that is read
            fields.array("citations")
        fields.close(without_effect={"citations": ({"enabled": False},)})
        return part

    def _readers(self) -> dict[str, Callable[[Fields, Label], Part]]:
        return {
            "text": _text,
            "image": _image,
            "document": _document,
            "thinking": _thinking,
            "redacted_thinking": _redacted,
            "tool_use": self._tool_use,
            "tool_result": self._tool_result,
        }

    def _tool_use(self, fields: Fields, label: Label) -> Part:
        value = fields.mapping("input")
        if value is None:
            path = fields.at("input")
            raise InvalidParameter(f"`{path}` is missing; send an object", param=path)
        part = ToolCallPart(
            id=fields.required_string("id", max_chars=256),
            name=fields.required_string("name", max_chars=256),
            arguments=json.dumps(value, ensure_ascii=False),
        )
        self._called.add(part.id)
        return part

    def _tool_result(self, fields: Fields, label: Label) -> Part:
        call_id, path = fields.required_string("tool_use_id"), fields.at("tool_use_id")
        if call_id not in self._called:
            raise InvalidParameter(
                f"`{path}` {shown(call_id)} answers no tool_use of an earlier message", param=path
            )
        content, path = fields.take("content"), fields.at("content")
        if isinstance(content, str):
            text = content
        else:
            text = "".join(
                self._result_text(object_at(item, f"{path}[{at}]"))
                for at, item in enumerate([] if content is None else array_at(content, path))
            )
        return ToolResultPart(call_id=call_id, text=text, is_error=fields.boolean("is_error"))

    def _result_text(self, fields: Fields) -> str:
        kind, path = fields.required_string("type", max_chars=64), fields.at("type")
        if kind != "text":
            raise UnsupportedParameter(
                f"`{path}` {shown(kind)} is not supported in a tool's result; send text, and "
                "images in a message of the user",
                param=path,
            )
        self._caching.take(fields)
        text = string_at(fields.take("text"), fields.at("text"))
        fields.close(without_effect={"citations": ([],)})
        return text


def _text(fields: Fields, label: Label) -> Part:
    return TextPart(text=string_at(fields.take("text"), fields.at("text")), label=label)


def _image(fields: Fields, label: Label) -> Part:
    source = object_at(fields.take("source"), fields.at("source"))
    kind = _source_kind(source, ("base64", "url"))
    if kind == "url":
        url = source.required_string("url")
        source.close()
        return ImagePart(media_type="image/*", url=url, label=label)
    part = ImagePart(
        media_type=source.required_string("media_type", max_chars=256),
        data=base64_at(source.required_string("data"), source.at("data")),
        label=label,
    )
    source.close()
    return part


def _document(fields: Fields, label: Label) -> Part:
    title = fields.string("title", max_chars=1024)
    source = object_at(fields.take("source"), fields.at("source"))
    kind = _source_kind(source, ("base64", "text", "url"))
    media_type = source.string("media_type", max_chars=256)
    text, data, url = "", None, None
    match kind:
        case "text":
            text = source.required_string("data")
        case "url":
            url = source.required_string("url")
        case _:
            data = base64_at(source.required_string("data"), source.at("data"))
    source.close()
    return DocumentPart(
        id=title or "document",
        text=text,
        title=title,
        media_type=media_type or ("text/plain" if kind == "text" else "application/pdf"),
        data=data,
        url=url,
        label=label,
    )


def _source_kind(source: Fields, kinds: Sequence[str]) -> str:
    kind = source.required_string("type", max_chars=64)
    if kind == "file":
        raise UnsupportedParameter(
            f"`{source.at('type')}` file is not supported; send the data itself as base64",
            param=source.at("type"),
        )
    return one_of(kind, source.at("type"), kinds)


def _thinking(fields: Fields, label: Label) -> Part:
    return ReasoningPart(
        text=string_at(fields.take("thinking"), fields.at("thinking")),
        signature=fields.string("signature") or "",
    )


def _redacted(fields: Fields, label: Label) -> Part:
    return ReasoningPart(text="", signature=fields.required_string("data"), redacted=True)
