"""Anthropic's Messages API as a `Dialect`."""

import json
from typing import Any
from urllib.parse import urlsplit

import msgspec

from headrace.errors import ConfigError, HeadraceError, UpstreamError
from headrace.providers import shapes
from headrace.providers.anthropic_events import MessageReader, error_of
from headrace.providers.anthropic_requests import message_body, prompt_body
from headrace.providers.upstream import EventReader, HttpCall, SseEvents
from headrace.types import ChatRequest

URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
"""The only version of the protocol there is."""


class AnthropicDialect:
    """Over `url`, with or without `/v1`.

    Args:
        url: Of the server.
        model: Asked for instead of the request's.
        max_output_tokens: Sent where a request sets no limit, which the API demands.
    """

    def __init__(self, *, url: str, model: str, max_output_tokens: int) -> None:
        self._base = http_base(url).removesuffix("/v1") + "/v1"
        self._model = model
        self._max_output_tokens = max_output_tokens

    def call(self, request: ChatRequest) -> HttpCall:
        """POST /v1/messages."""
        body = message_body(request, model=self._model, max_output_tokens=self._max_output_tokens)
        return self._post("/messages", body, request)

    def reader(self, request: ChatRequest) -> EventReader:
        """Of the stream."""
        return SseEvents(MessageReader())

    def error(self, status: int, found: object, retry_after_s: int | None) -> HeadraceError:
        """Of an answer other than 200."""
        return error_of(found, status=status, retry_after_s=retry_after_s)

    def count_call(self, request: ChatRequest) -> HttpCall:
        """POST /v1/messages/count_tokens."""
        return self._post(
            "/messages/count_tokens", prompt_body(request, model=self._model), request
        )

    def counted(self, found: dict[str, Any]) -> int:
        """Its `input_tokens`."""
        return counted(found, "input_tokens")

    def _post(self, path: str, body: dict[str, Any], request: ChatRequest) -> HttpCall:
        headers = {"anthropic-version": VERSION}
        return HttpCall(url=self._base + path, body=json_bytes(body), headers=headers)


def json_bytes(body: dict[str, Any]) -> bytes:
    """A body as it is sent."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError):  # a lone surrogate, a number beyond 64 bits
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


def http_base(url: str) -> str:
    """An address without its last slash.

    Raises: ConfigError where it is none.
    """
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise ConfigError(f"url {url!r} does not begin with http:// or https:// and a host")
    return url.rstrip("/")


def counted(found: dict[str, Any], name: str) -> int:
    """A count in a provider's answer."""
    try:
        return shapes.count(found[name])
    except (KeyError, TypeError, ValueError) as error:
        raise UpstreamError(f"the server sent no {name}: {shapes.short(found)}") from error
