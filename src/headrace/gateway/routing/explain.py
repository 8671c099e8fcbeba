"""Which way a request would go, and why, without sending it: the same rules on the same facts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from headrace.config import Settings
from headrace.errors import ModelNotFound
from headrace.gateway.caching import key
from headrace.gateway.routing.build import compile_routes
from headrace.gateway.routing.canned import said
from headrace.gateway.routing.router import Router
from headrace.gateway.routing.rules import Decision, Use
from headrace.gateway.routing.version import config_version
from headrace.providers.assemble import check_kind
from headrace.providers.compose import Composer, Core
from headrace.providers.residency import Place, Residency
from headrace.types import Backend, Caller, ChatRequest, Event, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """A model on the way, and why it may not be asked; empty = it may."""

    target: Target
    place: str
    forbidden: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """Of one request."""

    route: str
    decision: Decision
    way: str
    """What the decision comes to: the pool, cascade or model, and what stands in for it."""
    models: tuple[Reach, ...]
    cache: str
    """What the cache would do."""


async def explain(
    settings: Settings,
    request: ChatRequest,
    *,
    local: str = "",
    render_tokens: Callable[[ChatRequest], int] | None = None,
    budget_left: Callable[[Caller], Awaitable[int | None]] | None = None,
) -> Explained:
    """Decide about a request as a service with these settings would.

    Args:
        settings: Routes, rules, classes.
        request: Its model is the route; its caller what rules know of who asks.
        local: Name of the local model; empty = there is none.
        render_tokens: Its count of a prompt.
        budget_left: Nano-dollars that a caller has left.

    Raises:
        ConfigError: Settings that a service would not start with.
        ModelNotFound: No such route.
        InvalidParameter: An unknown data class.
    """
    residency = Residency.of(settings)
    caller = request.caller
    classes = residency.classes_of(caller.data_classes, None)
    request = replace(request, caller=replace(caller, data_classes=classes))
    composer = Composer(settings.routes, _leaves(settings, local))
    names = [*([local] if local else []), *settings.routes]
    cores = {name: composer.chain(name) for name in names}
    plan = compile_routes(
        settings,
        {name: core.targets for name, core in cores.items()},
        local=local,
        render_tokens=render_tokens,
        budget_left=budget_left,
    )
    if request.model not in cores:
        raise ModelNotFound(
            f"the model {request.model[:80]!r} is not served; there is: {', '.join(names)}",
            param="model",
        )
    rules = plan.routes.get(request.model)
    decision = Decision(action=Use(name=request.model), rule="", version=config_version(settings))
    if rules is not None:
        router = Router(request.model, rules.rules, {}, sources=rules.sources, version=plan.version)
        decision = await router.decide(request)
    core = cores[decision.action.name] if isinstance(decision.action, Use) else None
    return Explained(
        route=request.model,
        decision=decision,
        way="" if core is None else core.told,
        models=() if core is None else _reached(settings, residency, request.caller, core),
        cache="" if core is None else _cache(settings, residency, request),
    )


class _Nowhere:
    """Stands where a model would be: nothing is sent."""

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """Says nothing."""
        return said(request, "")


def _leaves(settings: Settings, local: str) -> dict[str, tuple[Target, Backend]]:
    nothing: Backend = _Nowhere()
    leaves: dict[str, tuple[Target, Backend]] = {}
    if local:
        leaves[local] = (Target(provider="", model=local), nothing)
    for name, route in settings.routes.items():
        if check_kind(name, route) == "provider":
            leaves[name] = (Target(provider=route.provider, model=route.model or name), nothing)
    return leaves


def _reached(
    settings: Settings, residency: Residency, caller: Caller, core: Core
) -> tuple[Reach, ...]:
    made: list[Reach] = []
    for target in core.targets:
        provider = settings.providers.get(target.provider)
        place = (
            Place(region=settings.routing.region)
            if provider is None
            else Place(provider=target.provider, managed=provider.managed, region=provider.region)
        )
        forbidden = residency.forbids(caller, place)
        made.append(Reach(target=target, place=str(place), forbidden=forbidden))
    return tuple(made)


def _cache(settings: Settings, residency: Residency, request: ChatRequest) -> str:
    route = settings.routes.get(request.model)
    if route is None or not route.cache_ttl_s:
        return "off for this route"
    reason = key.why_not(request, any_sampling=route.cache_any)
    if not residency.may_keep(request.caller):
        reason = "answers of this data class are not kept"
    return f"not asked: {reason}" if reason else f"asked; answers are kept {route.cache_ttl_s} s"
