"""An `Embedder` over whatever speaks OpenAI's embeddings protocol: OpenAI, Azure, vLLM, Ollama.

Invariants: an answer that lacks a vector, mixes lengths or says no usage is an error, never a
guess; what the protocol cannot carry (prompts, truncation) is refused by name.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, cast

from headrace.errors import UnsupportedParameter, UpstreamError
from headrace.providers.openai_errors import error_of
from headrace.providers.provider import Authorize
from headrace.providers.upstream import HttpCall, Timeouts, Upstream
from headrace.types import Embedded, EmbedderCard, EmbedRequest, Usage


class OpenAIEmbedder:
    """One model of one server; `close` it.

    Args:
        url: Up to and with `/v1`, or Azure's deployment; a query is kept.
        model: The server's own name.
        card: As clients see it.
        authorize: Adds the credentials of each call; None = there are none.
        timeouts: All of them.
        max_connections: At once; 0 = no limit.
        packed: Ask for base64, which is a third of the bytes, of servers that are known to have it.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        card: EmbedderCard,
        authorize: Authorize | None,
        timeouts: Timeouts,
        max_connections: int = 0,
        packed: bool = True,
    ) -> None:
        path, _, query = url.partition("?")
        self._url = path.rstrip("/") + "/embeddings" + (f"?{query}" if query else "")
        self._model = model
        self._card = card
        self._authorize = authorize
        self._packed = packed
        self._upstream = Upstream(
            timeouts=timeouts,
            error=lambda status, found, after: error_of(found, status=status, retry_after_s=after),
            max_connections=max_connections,
        )

    @property
    def card(self) -> EmbedderCard:
        return self._card

    async def close(self) -> None:
        """Close every connection."""
        await self._upstream.close()

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """The bytes of each text, which no tokenizer exceeds."""
        self._check(request)
        return tuple(
            len(item.encode()) + 2 if isinstance(item, str) else len(item)
            for item in request.inputs
        )

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`."""
        self._check(request)
        body: dict[str, Any] = {
            "model": self._model,
            "input": list(request.inputs),
            "encoding_format": "base64" if self._packed else "float",
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        headers = {"Content-Type": "application/json"}
        call = HttpCall(
            url=self._url,
            body=json.dumps(body).encode(),
            headers=headers,
            answers="application/json",
            at_once=True,
        )
        if self._authorize is not None:
            call = await self._authorize(call)
        found = await self._upstream.whole(call, deadline_s=request.deadline_s)
        return self._read(found, len(request.inputs))

    def _check(self, request: EmbedRequest) -> None:
        name = self._card.name
        if request.prompt:
            raise UnsupportedParameter(
                f"`input_type`: {name} is a provider's model and has no prompts; leave it out",
                param="input_type",
            )
        if request.truncate:
            raise UnsupportedParameter(
                f"`truncate`: {name} is a provider's model, which cuts nothing; shorten the text",
                param="truncate",
            )
        if request.dimensions is not None and not self._card.min_dimensions:
            raise UnsupportedParameter(
                f"`dimensions`: {name} is not said to have shorter vectors; leave it out, or set "
                "min_dimensions of its route",
                param="dimensions",
            )

    def _read(self, found: Mapping[str, Any], count: int) -> Embedded:
        try:
            rows: list[bytes | None] = [None] * count
            for entry in found["data"]:
                at = entry["index"]
                if not _is_count(at):
                    raise ValueError(f"index {at!r}")
                rows[at] = _row(entry["embedding"])
            tokens = found["usage"]["prompt_tokens"]
        except (KeyError, TypeError, IndexError, ValueError, struct.error) as error:
            raise UpstreamError(f"{self._url} answered no embeddings: {error!r}") from error
        whole = [row for row in rows if row]
        sizes = {len(row) for row in whole}
        if len(whole) != count or len(sizes) != 1 or not _is_count(tokens):
            raise UpstreamError(
                f"{self._url} answered {len(whole)} vectors of {len(sizes)} lengths for {count} "
                f"inputs, and usage {tokens!r}"
            )
        dimensions = sizes.pop() // 4
        wanted = self._card.dimensions
        if wanted and dimensions > wanted:
            raise UpstreamError(
                f"{self._url} answered vectors of {dimensions} numbers where the settings say "
                f"{wanted}"
            )
        return Embedded(
            data=b"".join(whole), dimensions=dimensions, usage=Usage(prompt_tokens=tokens)
        )


def _row(value: object) -> bytes:
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a vector is not base64: {error}") from error
        if len(data) % 4:
            raise ValueError(f"a vector of {len(data)} bytes is no float32")
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
    else:
        numbers = tuple(float(number) for number in cast("list[Any]", value))
        data = struct.pack(f"<{len(numbers)}f", *numbers)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a vector has a number that is not finite")
    return data


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
