"""Conversations: the chat-formatted examples a model is tuned on, and the words to build them.

A conversation is `types.Message`s and `types.ToolSpec`s, so that the one renderer turns it into
ids; nothing here knows a template.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace.data.sources import id_hash
from headrace.types import Message, Role, TextPart, ToolCallPart, ToolResultPart, ToolSpec

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One example: what was said, with the tools on offer."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else its record said, such as a source; no part of what is rendered."""


def said(role: Role, text: str) -> Message:
    """A message of one text part."""
    return Message(role=role, parts=(TextPart(text=text),))


def turns(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """User and assistant in turn, the user first, after an optional system message."""
    roles = (Role.USER, Role.ASSISTANT)
    spoken = tuple(said(roles[place % 2], text) for place, text in enumerate(texts))
    return spoken if system is None else (said(Role.SYSTEM, system), *spoken)


def call(name: str, arguments: str, *, id: str = "call_0") -> Message:
    """An assistant message that calls one tool; `arguments` is JSON text."""
    return Message(
        role=Role.ASSISTANT, parts=(ToolCallPart(id=id, name=name, arguments=arguments),)
    )


def result(name: str, text: str, *, id: str = "call_0") -> Message:
    """What a tool answered."""
    return Message(role=Role.TOOL, parts=(ToolResultPart(call_id=id, name=name, text=text),))


def pick(options: Sequence[_Item], key: str) -> _Item:
    """One of the options, decided by the key alone: variety without a random generator."""
    return options[id_hash(key) % len(options)]


def numbered(prefix: str, bodies: Iterable[tuple[Message, ...]]) -> list[Conversation]:
    """Conversations without tools, their ids counted from 0."""
    return [
        Conversation(id=f"{prefix}/{place}", messages=body) for place, body in enumerate(bodies)
    ]
