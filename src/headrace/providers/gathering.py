"""Answers of which nobody looks at parts, without a layer of generators: events go into a list.

A decorator on the way of most calls has, beside `stream`, `gather(request, into)`. Invariant: it
puts into the list what `stream` would have yielded before it ended or raised, and raises the same;
a test runs both over every kind of answer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from headrace.types import Backend, ChatRequest, Event

Gather: TypeAlias = Callable[[ChatRequest, list[Event]], Awaitable[None]]


def gatherer(backend: Backend) -> Gather:
    """A backend's own way, or its stream read to the end."""
    own: Gather | None = getattr(backend, "gather", None)
    if own is not None:
        return own

    async def gather(request: ChatRequest, into: list[Event]) -> None:
        await read(backend.stream(request), into)

    return gather


async def read(events: AsyncIterator[Event], into: list[Event]) -> None:
    """A stream to its end, into a list."""
    try:
        async for event in events:
            into.append(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
