"""`[embedding_routes.NAME]` over `[providers.NAME]`: a provider's model that makes vectors.

Resident(Resilient(Metered(OpenAIEmbedder))): where it may go is asked first, then the breaker; each
try is a leg of the bill. Retries and breaker are as chats have them, but each route's own.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from headrace.config import EmbeddingRouteSettings, Settings
from headrace.errors import ConfigError, NotFound, ServiceError, Unauthorized
from headrace.providers.assemble import openai_address, timeouts_of
from headrace.providers.metered import MeteredEmbedder
from headrace.providers.openai_embeddings import OpenAIEmbedder
from headrace.providers.residency import Place, Residency
from headrace.providers.resilience import (
    BreakerPolicy,
    Circuit,
    RetryPolicy,
    Sleep,
    named,
    operators,
)
from headrace.types import Embedded, Embedder, EmbedderCard, EmbedRequest, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRoute:
    """What makes vectors under a name that clients use."""

    embedder: Embedder
    target: Target


def open_embedders(
    settings: Settings, stack: AsyncExitStack, *, residency: Residency
) -> dict[str, EmbeddingRoute]:
    """Every embedding route; their connections close with the stack.

    Raises: ConfigError: A route that cannot be; the message names its setting.
    """
    made: dict[str, EmbeddingRoute] = {}
    for name, route in settings.embedding_routes.items():
        try:
            made[name] = _open(settings, name, route, stack, residency)
        except ConfigError as error:
            raise ConfigError(f"embedding_routes.{name}: {error.message}") from error
    return made


def _open(
    settings: Settings,
    name: str,
    route: EmbeddingRouteSettings,
    stack: AsyncExitStack,
    residency: Residency,
) -> EmbeddingRoute:
    provider = settings.providers.get(route.provider)
    if provider is None:
        known = ", ".join(settings.providers) or "none"
        raise ConfigError(f"provider = {route.provider!r} is no provider; there is: {known}")
    if provider.kind not in ("openai", "azure", "compatible"):
        raise ConfigError(
            f"providers.{route.provider} is of kind {provider.kind!r}, through which no vectors "
            "are made here; kinds that do: openai, azure, compatible"
        )
    model = route.model or name
    address = openai_address(provider, model)
    card = EmbedderCard(
        name=name,
        dimensions=route.dimensions,
        max_tokens=route.max_tokens,
        created_s=int(time.time()),
        fingerprint=f"{route.provider}/{model}",
        min_dimensions=route.min_dimensions,
    )
    client = OpenAIEmbedder(
        url=address.url,
        model=model,
        card=card,
        authorize=address.authorize,
        timeouts=timeouts_of(provider),
        max_connections=provider.max_connections,
        packed=provider.kind != "compatible",
    )
    stack.push_async_callback(client.close)
    metered = MeteredEmbedder(route.provider, model, client)
    policy = BreakerPolicy(failures=provider.breaker_failures, open_s=provider.breaker_open_s)
    resilient = ResilientEmbedder(
        metered,
        name=route.provider,
        retry=RetryPolicy(attempts=max(provider.attempts, 1)),
        circuit=Circuit(f"provider {route.provider}", policy),
    )
    place = Place(provider=route.provider, managed=provider.managed, region=provider.region)
    return EmbeddingRoute(
        embedder=ResidentEmbedder(place, resilient, residency), target=metered.target
    )


class ResidentEmbedder:
    """An `Embedder` at a place, which some data classes may not go to."""

    def __init__(self, place: Place, embedder: Embedder, residency: Residency) -> None:
        self._place = place
        self._embedder = embedder
        self._residency = residency

    @property
    def card(self) -> EmbedderCard:
        return self._embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`."""
        return await self._embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`. Raises: PlaceForbidden besides."""
        self._residency.check(request.caller, self._place)
        return await self._embedder.embed(request)


class ResilientEmbedder:
    """An `Embedder` that is asked again, or not at all for a while."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        name: str,
        retry: RetryPolicy,
        circuit: Circuit,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._embedder = embedder
        self._name = name
        self._retry = retry
        self._circuit = circuit
        self._sleep = sleep
        self._chance = chance

    @property
    def card(self) -> EmbedderCard:
        return self._embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`."""
        return await self._embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`."""
        async with self._circuit.attempt() as heard:
            answer = await self._tried(request)
            heard()
        return answer

    async def _tried(self, request: EmbedRequest) -> Embedded:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._embedder.embed(request)
            except (Unauthorized, NotFound) as error:
                raise operators(self._name, error) from error
            except ServiceError as error:
                pause = self._retry.pause_s(error, attempt, self._chance)
                if pause is None:
                    named(self._name, error)
                    raise
            await self._sleep(pause)
