"""A `Backend` over any server that speaks OpenAI's protocol: vLLM, llama.cpp, headrace, OpenAI.

Invariants: closing the generator closes the connection, which is how the protocol cancels; nothing
is retried (the server may have begun, and a caller above knows better whether to ask elsewhere); a
stream cut off in the middle is an error, never a short answer.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import aiohttp

from headrace.errors import ConfigError, DeadlineExceeded, UpstreamError
from headrace.providers.openai_errors import from_error_object
from headrace.providers.openai_events import ChunkReader
from headrace.providers.openai_requests import chat_body, completion_body
from headrace.providers.sse import SseReader
from headrace.types import ChatRequest, CompletionRequest, Event, ModelCard

_T = TypeVar("_T")
_MAX_ERROR_BYTES = 64 << 10
# Below uvicorn's 5 s: a connection that the server is about to close is not used again.
_KEEP_ALIVE_S = 4.0
_BODY_END_S = 0.5


class OpenAICompatible:
    """Chat and completions over `url`; use it as an async context manager, or `close` it.

    Args:
        url: Of the server, with or without `/v1`.
        key: Sent as a bearer token; None = no Authorization header.
        model: Sent instead of the request's model; None = the request's.
        connect_timeout_s: To open a connection.
        idle_timeout_s: Without a byte from the server, first or later ones.
        max_connections: At once; more requests wait their turn. 0 = no limit.
        return_token_ids: Ask for token ids, as vLLM and headrace can send them.
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
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url {url!r} does not begin with http:// or https://")
        base = url.rstrip("/")
        self._base = base if base.endswith("/v1") else base + "/v1"
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        self._model = model
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_connections = max_connections
        self._return_token_ids = return_token_ids
        self._session: aiohttp.ClientSession | None = None

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
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def models(self) -> list[ModelCard]:
        """What the server serves; `context_tokens` is 0 where it does not tell."""
        with _mapped(self._base):
            async with self._open().get(f"{self._base}/models") as response:
                await _raise_for_status(response)
                found = await response.json(content_type=None)
        try:
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
        with _mapped(url):
            async with self._open().get(url) as response:
                return response.status == 200

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """`Backend.stream` over POST /chat/completions."""

        def body() -> dict[str, Any]:
            return chat_body(
                request,
                model=self._model or request.model,
                return_token_ids=self._return_token_ids,
            )

        return self._post("/chat/completions", body, request)

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """`CompletionBackend.complete` over POST /completions."""

        def body() -> dict[str, Any]:
            return completion_body(
                request,
                model=self._model or request.model,
                return_token_ids=self._return_token_ids,
            )

        return self._post("/completions", body, request)

    async def _post(
        self,
        path: str,
        build: Callable[[], dict[str, Any]],
        request: ChatRequest | CompletionRequest,
    ) -> AsyncIterator[Event]:
        body = json.dumps(build(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        deadline = _Deadline(request.deadline_s)
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if request.trace:
            headers["X-Request-Id"] = request.trace
        chunks = ChunkReader(choices=request.sampling.n)
        reader = SseReader()
        url = self._base + path
        with _mapped(url):
            response = await deadline.wait(self._open().post(url, data=body, headers=headers))
        try:
            with _mapped(url):
                await deadline.wait(_raise_for_status(response))
            if response.content_type != "text/event-stream":
                raise UpstreamError(
                    f"{url} answered {response.content_type or 'no content type'} where "
                    "text/event-stream was asked for"
                )
            while not chunks.done:
                with _mapped(url):
                    received = await deadline.wait(response.content.readany())
                if not received:
                    break
                for data in reader.push(received):
                    for event in chunks.push(data):
                        yield event
            if reader.unfinished and not chunks.done:
                raise UpstreamError(f"{url} was cut off in the middle of an event")
            yield chunks.end()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                # The body's own end gives the connection back to be used again.
                await asyncio.wait_for(response.content.readany(), _BODY_END_S)
        finally:
            # Not `release`: an answer that is still running must see the connection close.
            response.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=_KEEP_ALIVE_S
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._connect_timeout_s,
                    sock_read=self._idle_timeout_s,
                ),
                headers=self._headers,
                read_bufsize=1 << 16,
            )
        return self._session


class _Deadline:
    """Bounds each wait by what is left of the request's own time."""

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._end = None if deadline_s is None else time.monotonic() + deadline_s

    async def wait(self, what: Awaitable[_T]) -> _T:
        if self._end is None:
            return await what
        limit = asyncio.timeout(self._end - time.monotonic())
        try:
            async with limit:
                return await what
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"the request's deadline of {self._deadline_s} s passed"
            ) from None


@contextlib.contextmanager
def _mapped(url: str) -> Generator[None]:
    """What the HTTP client raises, as `UpstreamError` with the address."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise UpstreamError(
            f"cannot reach {url}: {error.os_error.strerror or error.os_error}; is it running?"
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UpstreamError(f"{url}: {error or type(error).__name__}") from error


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    raw = await response.content.read(_MAX_ERROR_BYTES)
    retry_after = response.headers.get("Retry-After", "")
    found: object = raw.decode("utf-8", "replace").strip() or response.reason
    with contextlib.suppress(ValueError, RecursionError):
        tree = json.loads(raw)
        if isinstance(tree, dict):
            fields = cast("dict[str, object]", tree)
            # vLLM has the fields at the top, FastAPI calls them `detail`.
            found = fields.get("error") or fields.get("detail") or fields
    raise from_error_object(
        found,
        status=response.status,
        retry_after_s=int(retry_after) if retry_after.isdecimal() else 1,
    )
