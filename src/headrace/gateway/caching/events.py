"""An answer's events ⇄ bytes: MessagePack, deflated. A body that cannot be read is no answer."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import msgspec

from headrace.types import (
    Citation,
    Event,
    Finished,
    FinishReason,
    Leg,
    Quote,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)

_KINDS: dict[str, type[Event]] = {
    "s": Started,
    "t": TextDelta,
    "r": ReasoningDelta,
    "c": ToolCallDelta,
    "q": Citation,
    "f": Finished,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_Spelled: TypeAlias = tuple[list[tuple[str, dict[str, object]]], tuple[Leg, ...], tuple[Quote, ...]]
_WHOLE = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)
_LARGEST_BYTES = 64 << 20


class Answer(NamedTuple):
    events: Sequence[Event]
    legs: tuple[Leg, ...] = ()
    """The calls that made it."""
    quotes: tuple[Quote, ...] = ()
    """Documents that it may quote."""


def is_whole(events: Sequence[Event]) -> bool:
    """Whether they are an answer that ended by itself, so that it can be given again."""
    ends = [event for event in events if isinstance(event, Finished)]
    return (
        bool(ends)
        and isinstance(events[0], Started)
        and all(event.reason in _WHOLE for event in ends)
        and ends[-1].usage is not None
    )


def encode(answer: Answer) -> bytes:
    """An answer as bytes."""
    rows = [(_NAMES[type(event)], event) for event in answer.events]
    return zlib.compress(msgspec.msgpack.encode((rows, answer.legs, answer.quotes)), 1)


def decode(body: bytes) -> Answer:
    """The answer again. Raises: ValueError where the bytes are not of `encode`."""
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(body, _LARGEST_BYTES)
        if not inflate.eof:
            raise ValueError("a kept answer is cut off, or too large")
        rows, legs, quotes = msgspec.msgpack.decode(plain, type=_Spelled)
        events: list[Event] = [msgspec.convert(row, type=_KINDS[name]) for name, row in rows]
    except (zlib.error, msgspec.MsgspecError, KeyError) as error:
        raise ValueError(f"a kept answer cannot be read: {error}") from error
    return Answer(events, legs, quotes)


def readdressed(event: Event, id: str) -> Event:
    """The same event for another request."""
    return replace(event, id=id) if isinstance(event, Started) else event
