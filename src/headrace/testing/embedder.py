"""An embedder without a model: hashed words, so that texts with common words have near vectors."""

import asyncio
import hashlib
import math
import struct

from headrace.errors import ContextLengthExceeded
from headrace.types import Embedded, EmbedderCard, EmbedRequest, Usage


class HashEmbedder:
    """A deterministic `Embedder`: each word adds to one dimension; a word is a token."""

    def __init__(
        self,
        *,
        name: str = "hash",
        dimensions: int = 64,
        max_tokens: int = 512,
        pause_s: float = 0.0,
    ) -> None:
        """Take its card's facts, and how long an answer takes."""
        self.card = EmbedderCard(
            name=name,
            dimensions=dimensions,
            max_tokens=max_tokens,
            created_s=1_700_000_000,
            fingerprint=f"hash-{dimensions}",
        )
        self.requests: list[EmbedRequest] = []
        """Every request that `embed` took."""
        self.cancelled = 0
        self._pause_s = pause_s

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """Words of each text, no more than are kept."""
        return tuple(len(words) for words in self._words(request))

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`."""
        self.requests.append(request)
        inputs = self._words(request)
        try:
            await asyncio.sleep(self._pause_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        dimensions = request.dimensions or self.card.dimensions
        limit = self.card.max_tokens
        long = (at for at, item in enumerate(request.inputs) if len(_split(item)) > limit)
        return Embedded(
            data=b"".join(_vector(words, dimensions) for words in inputs),
            dimensions=dimensions,
            usage=Usage(prompt_tokens=sum(len(words) for words in inputs)),
            truncated=tuple(long),
        )

    def _words(self, request: EmbedRequest) -> list[list[str]]:
        limit = self.card.max_tokens
        found = [_split(item) for item in request.inputs]
        for at, words in enumerate(found):
            if len(words) > limit and not request.truncate:
                raise ContextLengthExceeded(
                    f"`input[{at}]` has {len(words)} tokens and the model reads {limit}",
                    param=f"input[{at}]",
                )
        return [words[:limit] for words in found]


def _split(item: str | tuple[int, ...]) -> list[str]:
    return item.lower().split() if isinstance(item, str) else [str(token) for token in item]


def _vector(words: list[str], dimensions: int) -> bytes:
    row = [0.0] * dimensions
    for word in words:
        digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
        row[digest % dimensions] += 1.0
    length = math.sqrt(sum(value * value for value in row)) or 1.0
    return struct.pack(f"<{dimensions}f", *(value / length for value in row))
