"""Settings become backends: `[routes.NAME]` over `[providers.NAME]`, decorated.

A leaf is Resident(Breaker(Metered(Named(Retrying(dialect over HTTP))))): what is asked again is one
request of one provider and one leg of the bill, what opens a breaker has been asked again already,
and nothing leaves for a place that its data class forbids. `headrace.providers.compose` makes
pools, cascades, hedges and fallbacks of the leaves.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from headrace.config import ProviderSettings, RouteSettings, Settings, secret
from headrace.errors import ConfigError
from headrace.providers import anthropic
from headrace.providers.anthropic import AnthropicDialect
from headrace.providers.bedrock import BedrockDialect, signed
from headrace.providers.compose import Composer
from headrace.providers.gemini import GeminiDialect
from headrace.providers.metered import Metered
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.providers.provider import Authorize, Provider, with_header
from headrace.providers.residency import Place, Residency, Resident, ResidentCounter
from headrace.providers.resilience import (
    Breaker,
    BreakerPolicy,
    CountedBy,
    Named,
    Retrying,
    RetryPolicy,
)
from headrace.providers.upstream import Timeouts
from headrace.types import Backend, ModelCard, Target, TokenCounter

OPENAI_URL = "https://api.openai.com"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What answers under a name that clients use."""

    card: ModelCard
    chat: Backend
    counter: TokenCounter | None
    max_output_tokens: int
    candidates: tuple[Target, ...]
    """Every model that it may ask, its own first."""
    calls: int = 1
    """The most calls of models that one request may be billed for."""
    breaker: Callable[[], str] | None = None
    """The state of its own provider's breaker; None = it is made of others."""
    told: str = ""
    """What it is, for people."""


def open_routes(
    settings: Settings,
    local: Mapping[str, Backend],
    stack: AsyncExitStack,
    *,
    residency: Residency | None = None,
) -> dict[str, Route]:
    """Every route; their connections close with the stack.

    Args:
        settings: Routes, providers.
        local: The models of this process's engine, by name.
        stack: Closes what is opened.
        residency: What places data classes forbid; None = as the settings have it.

    Raises:
        ConfigError: A route or provider that cannot be; the message names its setting.
        MissingExtra: Bedrock without botocore.
    """
    residency = residency or Residency.of(settings)
    own = Place(region=settings.routing.region)
    leaves: dict[str, tuple[Target, Backend]] = {
        name: (Target(provider="", model=name), Resident(own, backend, residency))
        for name, backend in local.items()
    }
    counters: dict[str, TokenCounter] = {}
    breakers: dict[str, Callable[[], str]] = {}
    for name, route in settings.routes.items():
        if name in local:
            raise ConfigError(
                f"routes.{name} has the name of the local model; give one of them another"
            )
        if check_kind(name, route) != "provider":
            continue
        place, target, breaker, client = _leaf(settings, name, route)
        stack.push_async_callback(client.close)
        leaves[name] = (target, Resident(place, breaker, residency))
        breakers[name] = breaker.tell
        if isinstance(client, Provider):
            counters[name] = ResidentCounter(place, CountedBy(route.provider, client), residency)
    composer = Composer(settings.routes, leaves)
    made: dict[str, Route] = {}
    for name, route in settings.routes.items():
        chain = composer.chain(name)
        made[name] = Route(
            card=ModelCard(
                name=name, context_tokens=route.context_tokens, created_s=int(time.time())
            ),
            chat=chain.backend,
            counter=counters.get(name),
            max_output_tokens=route.max_output_tokens,
            candidates=chain.targets,
            calls=chain.calls,
            told=chain.told,
            breaker=breakers.get(name),
        )
    return made


def check_kind(name: str, route: RouteSettings) -> str:
    """Which of provider, targets and cascade a route is. Raises: ConfigError."""
    kinds = [kind for kind in ("provider", "targets", "cascade") if getattr(route, kind)]
    if len(kinds) != 1:
        has = " and ".join(kinds) or "none"
        raise ConfigError(
            f"routes.{name} needs exactly one of provider, targets and cascade; it has {has}"
        )
    if kinds[0] != "provider" and route.model:
        raise ConfigError(f"routes.{name}.model is a provider's name of one; it has {kinds[0]}")
    return kinds[0]


def _leaf(
    settings: Settings, name: str, route: RouteSettings
) -> tuple[Place, Target, Breaker, OpenAICompatible | Provider]:
    provider = settings.providers.get(route.provider)
    if provider is None:
        known = ", ".join(settings.providers) or "none"
        raise ConfigError(
            f"routes.{name}.provider = {route.provider!r} is no provider; there is: {known}"
        )
    try:
        client = _client(provider, route, route.model or name)
    except ConfigError as error:
        raise ConfigError(f"providers.{route.provider}: {error.message}") from error
    attempts = RetryPolicy(attempts=max(provider.attempts, 1))
    named = Named(route.provider, Retrying(client, attempts))
    metered = Metered(route.provider, route.model or name, named)
    breaker = Breaker(
        f"provider {route.provider}",
        metered,
        BreakerPolicy(failures=provider.breaker_failures, open_s=provider.breaker_open_s),
    )
    place = Place(provider=route.provider, managed=provider.managed, region=provider.region)
    return place, metered.target, breaker, client


def _client(
    provider: ProviderSettings, route: RouteSettings, model: str
) -> OpenAICompatible | Provider:
    timeouts = timeouts_of(provider)
    match provider.kind:
        case "openai" | "azure" | "compatible":
            return _openai(provider, model, timeouts)
        case "anthropic":
            dialect = AnthropicDialect(
                url=provider.url or anthropic.URL,
                model=model,
                max_output_tokens=route.max_output_tokens,
            )
            authorize = _header(provider, "x-api-key")
        case "gemini":
            dialect = GeminiDialect(url=provider.url, model=model)
            authorize = _header(provider, "x-goog-api-key")
        case "vertex":
            dialect = GeminiDialect(
                url=provider.url,
                model=model,
                project=_needed(provider.project, "project"),
                region=_needed(provider.region, "region"),
            )
            authorize = _header(provider, "Authorization", prefix="Bearer ")
        case "bedrock":
            region = _needed(provider.region, "region")
            dialect = BedrockDialect(url=provider.url, region=region, model=model)
            authorize = signed(region=region, profile=provider.profile)
        case _:
            raise ConfigError(
                f"kind = {provider.kind!r} is not one of openai, azure, compatible, anthropic, "
                "gemini, vertex, bedrock"
            )
    return Provider(dialect, authorize, timeouts=timeouts, max_connections=provider.max_connections)


def timeouts_of(provider: ProviderSettings) -> Timeouts:
    """As the settings have them."""
    return Timeouts(
        connect_s=provider.connect_timeout_s,
        first_byte_s=provider.first_byte_timeout_s,
        idle_s=provider.idle_timeout_s,
        total_s=provider.total_timeout_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAIAddress:
    """Where a server that speaks OpenAI's protocol is."""

    url: str
    """With the version, or Azure's deployment and `?api-version=`."""
    authorize: Authorize | None


def openai_address(provider: ProviderSettings, model: str) -> OpenAIAddress:
    """Of a provider of kind openai, azure or compatible. Raises: ConfigError."""
    url = provider.url
    if provider.kind == "openai":
        url = url or OPENAI_URL
    url = anthropic.http_base(_needed(url, "url"))
    if provider.kind == "azure":
        url = url.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")
        if provider.api_version:
            url += f"/openai/deployments/{model}?api-version={provider.api_version}"
        else:
            url += "/openai/v1"
        return OpenAIAddress(url=url, authorize=_header(provider, "api-key"))
    path, _, query = url.partition("?")
    path = path.rstrip("/")
    url = (path if path.endswith("/v1") else f"{path}/v1") + (f"?{query}" if query else "")
    if provider.kind == "compatible" and not provider.key:
        return OpenAIAddress(url=url, authorize=None)  # a server of one's own may ask for none
    authorize = _header(provider, "Authorization", prefix="Bearer ")
    return OpenAIAddress(url=url, authorize=authorize)


def _openai(provider: ProviderSettings, model: str, timeouts: Timeouts) -> OpenAICompatible:
    if provider.continuous_usage and provider.kind != "compatible":
        raise ConfigError(f"continuous_usage is of kind compatible; {provider.kind} has none")
    address = openai_address(provider, model)
    return OpenAICompatible(
        url=address.url,
        model=model,
        max_connections=provider.max_connections,
        timeouts=timeouts,
        authorize=address.authorize,
        strict=provider.kind != "compatible",
        stream_always=provider.stream_always,
        versioned=False,
        continuous_usage=provider.continuous_usage,
    )


def _header(provider: ProviderSettings, name: str, *, prefix: str = "") -> Authorize:
    return with_header(name, secret(_needed(provider.key, "key")), prefix=prefix)


def _needed(value: str, name: str) -> str:
    if not value:
        raise ConfigError(f"{name} is missing; a provider of this kind needs it")
    return value
