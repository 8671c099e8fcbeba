"""A gateway with a store of responses, and a model that says what it was told; teams by key."""

import asyncio
import contextlib
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway_server import Gateway, serving
from headrace.errors import Unauthorized
from headrace.gateway.asgi import Services
from headrace.gateway.keys import Credentials
from headrace.gateway.services import ServedEmbedder
from headrace.gateway.stored import StoredResponses
from headrace.store.database import Database
from headrace.testing import HashEmbedder, Step
from headrace.types import (
    Caller,
    ChatRequest,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    Target,
    TextDelta,
    ToolCallDelta,
    ToolResultPart,
    Usage,
)

OWN = Target(provider="", model="m")


class TeamKeys:
    """The key is the team's name."""

    async def identify(self, credentials: Credentials) -> Caller:
        team = (credentials.authorization or "").removeprefix("Bearer ")
        if team not in ("red", "blue"):
            raise Unauthorized("red or blue")
        return Caller(key_id=f"key_{team}", org="o", team=team, role="member")


def told(request: Any) -> Iterable[Step]:
    """Calls the tool that it must; else repeats every text that it was given, after a thought."""
    assert isinstance(request, ChatRequest)
    usage = Usage(prompt_tokens=7, completion_tokens=3, reasoning_tokens=1)
    yield Started(id=request.trace, model=request.model, created_s=1, prompt_tokens=7)
    answered = any(isinstance(p, ToolResultPart) for m in request.messages for p in m.parts)
    if request.tools and not answered:
        yield ToolCallDelta(call=0, id=f"call_{request.trace[:6]}", name=request.tools[0].name)
        yield ToolCallDelta(call=0, arguments='{"location":')
        yield ToolCallDelta(call=0, arguments=' "San Francisco"}')
        yield Finished(reason=FinishReason.TOOL_CALLS, usage=usage)
        return
    yield ReasoningDelta(text="hm", signature=f"sig-{len(request.messages)}")
    for message in request.messages:
        for part in message.parts:
            words = part.text if hasattr(part, "text") else f"<{type(part).__name__}>"  # pyright: ignore[reportAttributeAccessIssue]
            yield TextDelta(text=f"{message.role.value}: {words}\n")
    yield Finished(reason=FinishReason.STOP, usage=usage)


@contextlib.contextmanager
def keeping(url: str, *, keys: bool = True, retention_s: int | None = 3600) -> Generator[Gateway]:
    """Serve with the database at that URL."""

    async def migrated() -> Database:
        database = await Database.open(url)
        await database.close()  # its connections belong to this loop
        return database

    database = asyncio.run(migrated())
    stack = contextlib.AsyncExitStack()
    stack.push_async_callback(database.close)
    stored = StoredResponses(database, retention_s=retention_s, max_bytes=1 << 20)
    base = Services(models={}, keys=TeamKeys() if keys else None)
    embedders = {"m": ServedEmbedder(embedder=HashEmbedder(name="m"), target=OWN)}
    base = replace(base, responses=stored, embedders=embedders)
    with serving(told, base=base, stack=stack) as gateway:
        yield gateway


def sqlite(directory: Path) -> str:
    return f"sqlite:///{directory / 'responses.db'}"
