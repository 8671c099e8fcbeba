"""A `Backend` over whatever speaks OpenAI's protocol: vLLM, llama.cpp, headrace, OpenAI, Azure.

Invariants: closing the generator closes the connection, which is how the protocol cancels; nothing
is retried (the server may have begun, and a caller above knows better whether to ask elsewhere); a
stream cut off in the middle is an error, never a short answer.
"""

import functools
import json
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from headrace.errors import UpstreamError
from headrace.providers.anthropic import http_base, json_bytes
from headrace.providers.gathering import read
from headrace.providers.openai_errors import error_of
from headrace.providers.openai_events import ChunkReader
from headrace.providers.openai_requests import chat_body, completion_body
from headrace.providers.openai_whole import WholeReader
from headrace.providers.provider import Authorize
from headrace.providers.upstream import HttpCall, SseEvents, Timeouts, Upstream, trace_headers
from headrace.types import ChatRequest, CompletionRequest, Event, ModelCard

_MAX_LIST_BYTES = 4 << 20


class OpenAICompatible:
    """Chat and completions over `url`; use it as an async context manager, or `close` it.

    Args:
        url: Of the server, with or without `/v1`; a query (Azure's `?api-version=`) is kept.
        key: Sent as a bearer token; None = no Authorization header.
        model: Sent instead of the request's model; None = the request's.
        connect_timeout_s: To open a connection.
        idle_timeout_s: Without a byte from the server, first or later ones.
        max_connections: At once; more requests wait their turn. 0 = no limit.
        return_token_ids: Ask for token ids, as vLLM and headrace can send them.
        timeouts: All of them; instead of the two above.
        authorize: Adds the credentials of each call; instead of `key`.
        strict: The server is OpenAI's own and knows none of vLLM's extras, which are refused.
        continuous_usage: Ask for a count of tokens in every chunk, as vLLM sends it.
        versioned: Whether `/v1` belongs at the end of the path.
        stream_always: Ask for a stream even where nobody looks at parts (`ChatRequest.streamed`).
    """

    def __init__(
        self,
        *,
        url: str,
        key: str | None = None,
        model: str | None = None,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 600.0,
        max_connections: int = 0,
        return_token_ids: bool = False,
        timeouts: Timeouts | None = None,
        authorize: Authorize | None = None,
        strict: bool = False,
        versioned: bool = True,
        stream_always: bool = True,
        continuous_usage: bool = False,
    ) -> None:
        parts = urlsplit(http_base(url))
        path = parts.path.rstrip("/")
        if versioned and not path.endswith("/v1"):
            path += "/v1"
        self._base = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self._query = f"?{parts.query}" if parts.query else ""
        self._model = model
        self._return_token_ids = return_token_ids
        self._authorize = authorize
        self._strict = strict
        self._stream_always = stream_always
        self._continuous_usage = continuous_usage
        self._upstream = Upstream(
            timeouts=timeouts
            or Timeouts(
                connect_s=connect_timeout_s, first_byte_s=idle_timeout_s, idle_s=idle_timeout_s
            ),
            error=lambda status, found, after: error_of(found, status=status, retry_after_s=after),
            headers={"Authorization": f"Bearer {key}"} if key is not None else {},
            max_connections=max_connections,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._upstream.close()

    async def models(self) -> list[ModelCard]:
        """What the server serves; `context_tokens` is 0 where it does not tell."""
        async with self._upstream.get(f"{self._base}/models{self._query}") as response:
            await self._upstream.check(response)
            raw = await response.read(_MAX_LIST_BYTES)
        try:
            found = json.loads(raw)
            return [
                ModelCard(
                    name=str(entry["id"]),
                    context_tokens=int(entry.get("max_model_len") or 0),
                    created_s=int(entry.get("created") or 0),
                )
                for entry in found["data"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UpstreamError(f"{self._base}/models answered no list of models") from error

    async def ready(self) -> bool:
        """Whether /readyz says so: headrace's and Kubernetes' convention, not OpenAI's."""
        url = self._base.removesuffix("/v1") + "/readyz"
        async with self._upstream.get(url) as response:
            return response.status == 200

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """`Backend.stream` over POST /chat/completions."""
        stream = request.streamed or self._stream_always
        build = functools.partial(self._chat_body, request, stream=stream)
        return self._post("/chat/completions", build, request, stream=stream)

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The events of `stream` into a list; of a call that is none they come all at once."""
        if request.streamed or self._stream_always:
            await read(self.stream(request), into)
            return
        build = functools.partial(self._chat_body, request, stream=False)
        call = await self._call("/chat/completions", build, request, stream=False)
        reader = WholeReader(choices=request.sampling.n)
        trail = request.trail
        trail.unseen = True
        try:
            await self._upstream.gather(call, reader, into, deadline_s=request.deadline_s)
        finally:
            trail.heard, trail.heard_all = reader.heard, reader.heard_all

    def _chat_body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        return chat_body(
            request,
            model=self._model or request.model,
            return_token_ids=self._return_token_ids,
            strict=self._strict,
            stream=stream,
            continuous_usage=self._continuous_usage,
        )

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """`CompletionBackend.complete` over POST /completions."""

        def body() -> dict[str, Any]:
            return completion_body(
                request,
                model=self._model or request.model,
                return_token_ids=self._return_token_ids,
            )

        return self._post("/completions", body, request)

    async def _call(
        self,
        path: str,
        build: Callable[[], dict[str, Any]],
        request: ChatRequest | CompletionRequest,
        *,
        stream: bool,
    ) -> HttpCall:
        answers = "text/event-stream" if stream else "application/json"
        headers = {"Accept": answers}
        if request.trace:
            headers["X-Request-Id"] = request.trace
        headers |= trace_headers(request.trail)
        call = HttpCall(
            url=self._base + path + self._query,
            body=json_bytes(build()),
            headers=headers,
            answers=answers,
            at_once=not stream,
        )
        return call if self._authorize is None else await self._authorize(call)

    async def _post(
        self,
        path: str,
        build: Callable[[], dict[str, Any]],
        request: ChatRequest | CompletionRequest,
        *,
        stream: bool = True,
    ) -> AsyncIterator[Event]:
        call = await self._call(path, build, request, stream=stream)
        choices = request.sampling.n
        reader = SseEvents(ChunkReader(choices=choices)) if stream else WholeReader(choices=choices)
        events = self._upstream.stream(call, reader, deadline_s=request.deadline_s)
        trail = request.trail
        trail.unseen = not stream
        try:
            async for event in events:
                trail.heard, trail.heard_all = reader.heard, reader.heard_all
                yield event
        finally:
            trail.heard, trail.heard_all = reader.heard, reader.heard_all
            await events.aclose()
