"""A request against the context, the pool and the queue: admitted, or refused with the numbers.

Invariant: what passes `resolve_max_tokens` can finish alone in an otherwise empty pool.
"""

from dataclasses import dataclass

from headrace.config import EngineSettings
from headrace.engine.request import EngineRequest
from headrace.errors import ContextLengthExceeded, InvalidParameter, Overloaded

_LONGEST_RETRY_S = 60


def resolve_max_tokens(request: EngineRequest, *, context_tokens: int, pool_tokens: int) -> int:
    """The request's `max_tokens`; None becomes what context and pool have room for.

    Raises:
        InvalidParameter: An empty prompt, or counts below their least.
        ContextLengthExceeded: It cannot fit the context, or the pool, even alone.
    """
    size, asked = len(request.prompt), request.sampling.max_tokens
    if not size:
        raise InvalidParameter("the prompt is empty; give at least one token", param="prompt")
    if request.sampling.n < 1:
        raise InvalidParameter(f"`n` {request.sampling.n} is below 1", param="n")
    if asked is not None and asked < 0:
        raise InvalidParameter(f"`max_tokens` {asked} is below 0", param="max_tokens")
    # One place is left for a token, unless none is wanted.
    longest = context_tokens if asked == 0 else context_tokens - 1
    if size > longest:
        raise ContextLengthExceeded(
            f"the prompt has {size} tokens and the context {context_tokens}; "
            f"shorten the prompt by at least {size - longest}",
            param="prompt",
        )
    if size > pool_tokens:
        raise ContextLengthExceeded(
            f"the prompt has {size} tokens and the KV pool {pool_tokens}; shorten the prompt or "
            "raise the setting engine.kv_cache_bytes",
            param="prompt",
        )
    # The last token is sampled and never run: it needs no place in the pool.
    room = min(context_tokens, pool_tokens + 1) - size
    if asked is None:
        return room
    if size + asked > context_tokens:
        raise ContextLengthExceeded(
            f"`max_tokens` {asked} exceeds context {context_tokens} - prompt {size}; "
            f"lower it to {context_tokens - size}",
            param="max_tokens",
        )
    if asked > room:
        raise ContextLengthExceeded(
            f"`max_tokens` {asked} exceeds the KV pool's {pool_tokens} tokens - prompt {size}; "
            f"lower it to {room} or raise the setting engine.kv_cache_bytes",
            param="max_tokens",
        )
    return asked


@dataclass(kw_only=True, slots=True)
class Queue:
    """Requests that have not begun, counted."""

    requests: int = 0
    tokens: int = 0
    """Of their prompts."""

    def check(
        self, request: EngineRequest, settings: EngineSettings, *, seconds_per_token: float
    ) -> None:
        """Refuse what is past the limits; a single request may be of any length.

        Raises: Overloaded: With the time that the queue needs at the rate given.
        """
        retry_after_s = min(_LONGEST_RETRY_S, 1 + int(self.tokens * seconds_per_token))
        if self.requests >= settings.max_queued_requests:
            raise Overloaded(
                f"{self.requests} requests wait and engine.max_queued_requests is "
                f"{settings.max_queued_requests}; try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )
        size = len(request.prompt)
        if self.requests and self.tokens + size > settings.max_queued_tokens:
            raise Overloaded(
                f"{self.tokens} prompt tokens wait, this prompt has {size} and "
                f"engine.max_queued_tokens is {settings.max_queued_tokens}; "
                f"try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )

    def enter(self, request: EngineRequest) -> None:
        self.requests += 1
        self.tokens += len(request.prompt)

    def leave(self, request: EngineRequest) -> None:
        self.requests -= 1
        self.tokens -= len(request.prompt)
