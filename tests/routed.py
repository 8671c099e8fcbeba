"""Backends and requests for tests of routing."""

from collections.abc import AsyncIterator, Iterable, Sequence

from headrace.testing import ScriptedBackend, Step, reply
from headrace.types import (
    Caller,
    ChatRequest,
    Event,
    Message,
    Role,
    SamplingParams,
    TextPart,
    Trail,
    collect,
)


def asked(
    text: str = "hi",
    *,
    system: str = "",
    caller: Caller | None = None,
    sampling: SamplingParams | None = None,
) -> ChatRequest:
    """A request with a trail of its own."""
    messages = [Message(role=Role.USER, parts=(TextPart(text=text),))]
    if system:
        messages.insert(0, Message(role=Role.SYSTEM, parts=(TextPart(text=system),)))
    return ChatRequest(
        model="m",
        messages=tuple(messages),
        caller=caller or Caller(),
        sampling=sampling or SamplingParams(),
        trace="t",
        trail=Trail(),
    )


def says(*pieces: str, pause_s: float = 0.0) -> ScriptedBackend:
    """A backend that always says that."""
    return ScriptedBackend(lambda request: reply(request, pieces, pause_s=pause_s))


def fails(*errors: BaseException) -> ScriptedBackend:
    """A backend that fails with these, the last again and again."""
    left = list(errors)

    def script(_: object) -> Iterable[Step]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return ScriptedBackend(script)


async def answer(stream: AsyncIterator[Event]) -> str:
    return (await collect(stream)).choices[0].text


def notes(request: ChatRequest, hop: str) -> Sequence[str]:
    return [note.text for note in request.trail.notes if note.hop == hop]
