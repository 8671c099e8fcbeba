"""Where a client verb's answers come from: a server by URL, or an engine in this process's care.

`chat` and `generate` share it, so that the same options mean the same in both.
"""

import contextlib
import http.client
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from headrace import app
from headrace.cli import report
from headrace.config import Settings, client_api_key, with_value
from headrace.errors import Unauthorized, UserError
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)

LOCAL_SERVER = ("127.0.0.1", 8080)
"""Asked first where neither a model nor a URL is given."""
_PROBE_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Who answers."""

    settings: Settings
    url: str | None
    key: str | None
    model: str | None
    """The name to ask a server for; None = its first."""

    @property
    def label(self) -> str:
        """For people: the address, or the model that runs here."""
        return self.url or f"{app.model_name(self.settings)} on this machine"


def choose(settings: Settings, *, model: str | None, url: str | None, key: str | None) -> Source:
    """Decide who answers.

    Args:
        model: With `url`, the name of a model that server has; without, the checkpoint to run here.
        url: A server. Where neither is given, a headrace that answers on port 8080 is taken.
        key: API key; None = $OPENAI_API_KEY.

    Raises:
        UserError: A URL that is not one.
    """
    if url is None and model is None and not settings.model.path and answers(*LOCAL_SERVER):
        host, port = LOCAL_SERVER
        url = f"http://{host}:{port}"
    if url is None:
        if model is not None:
            settings = with_value(settings, "model.path", model, origin="--model")
        return Source(settings=settings, url=None, key=None, model=None)
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url!r} is not an http address; write http://HOST:PORT")
    return Source(settings=settings, url=url, key=key or client_api_key(), model=model)


def answers(host: str, port: int) -> bool:
    """Whether a headrace (or one that behaves like it) is alive there."""
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_S)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    # Any web server may have a page for every path; this header is ours.
    return response.status == 200 and response.headers.get("x-request-id") is not None


def text_of(typed: str | bytes) -> str:
    """What was typed or piped, as text that can be sent.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        if isinstance(typed, bytes):
            return typed.decode()
        typed.encode()  # bytes that are no UTF-8 reach us from a command line as lone surrogates
    except UnicodeError as error:
        raise UserError("the text is not UTF-8; convert it, for example with iconv") from error
    return typed


@contextlib.asynccontextmanager
async def connected(source: Source) -> AsyncGenerator[app.Opened]:
    """The backend, ready; while it starts, stderr says so.

    Raises: UserError where the server wants another key, with the ways to give one.
    """
    async with contextlib.AsyncExitStack() as stack:
        with report.progress(f"opening {source.label}"):
            try:
                backend = await stack.enter_async_context(
                    app.open_backend(source.settings, url=source.url, key=source.key)
                )
            except Unauthorized as error:
                ways = "give one with --key or OPENAI_API_KEY; `headrace keys make` makes one"
                raise UserError(f"{error.message}; {ways}") from error
        yield backend


class Tally:
    """Follows a stream and remembers what a person asks about it afterwards."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.text = ""
        self.reasoning = ""
        self.tool_calls = ""
        self.finish: FinishReason | None = None
        self.usage: Usage | None = None
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = self._began_s

    def add(self, event: Event) -> None:
        """Book one event, at the time of the call."""
        match event:
            case Started():
                self.started = event
            case TextDelta():
                self.text += event.text
                self._token()
            case ReasoningDelta():
                self.reasoning += event.text
                self._token()
            case ToolCallDelta():
                self.tool_calls += f"\n{event.name}" if event.name else ""
                self.tool_calls += event.arguments
                self._token()
            case Finished():
                self.finish = event.reason
                self.usage = event.usage or self.usage
            case _:
                pass

    def _token(self) -> None:
        self._last_s = time.monotonic()
        if self._first_s is None:
            self._first_s = self._last_s

    @property
    def ttft_s(self) -> float | None:
        """From the request to its first token."""
        return None if self._first_s is None else self._first_s - self._began_s

    @property
    def tokens_per_s(self) -> float | None:
        """Of the completion after its first token."""
        if self._first_s is None or self.usage is None or self._last_s <= self._first_s:
            return None
        return (self.usage.completion_tokens - 1) / (self._last_s - self._first_s)

    def facts(self) -> str:
        """One line for people."""
        parts: list[str] = []
        if self.ttft_s is not None:
            parts.append(f"TTFT {1000 * self.ttft_s:.0f} ms")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tok/s")
        if self.usage is not None:
            cached = self.usage.cached_tokens
            parts.append(
                f"{self.usage.prompt_tokens} prompt" + (f" ({cached} cached)" if cached else "")
            )
            parts.append(f"{self.usage.completion_tokens} completion")
        if self.finish not in (None, FinishReason.STOP):
            parts.append(f"ended: {self.finish}")
        return " · ".join(parts)
