"""What stands before the models of a route: rules that choose one, and a cache before each.

    Router -> Cached -> InContext -> what `headrace.providers` composed

The cache is behind the rules: an answer is kept for the way that its request went, and for what an
index that it was answered from said then, to whoever may read what its reader may.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from headrace.config import RouteSettings, Settings
from headrace.errors import ConfigError
from headrace.gateway.caching.cached import Cached, CachePolicy, Snapshot, no_snapshot
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.routing.build import Plan
from headrace.gateway.routing.router import Router
from headrace.gateway.services import Served
from headrace.providers.residency import Residency
from headrace.types import Backend

_MILLION = 1_000_000


def fronted(
    models: Mapping[str, Served],
    settings: Settings,
    plan: Plan,
    *,
    shelf: Shelf,
    residency: Residency,
    release: str,
    snapshots: Mapping[str, Snapshot] = MappingProxyType({}),
) -> dict[str, Served]:
    """The models, with the rules and caches of their routes before them.

    Args:
        models: By name; what a rule uses is taken from here, without its own rules.
        settings: Routes.
        plan: Their rules.
        shelf: Keeps answers.
        residency: Says whose are not kept.
        release: Of the local model; providers' are in the plan's version.
        snapshots: Of what those retrieve that answer from an index, by name.

    Raises: ConfigError for cache settings that cannot be.
    """
    made = dict(models)
    for name, route in settings.routes.items():
        rules = plan.routes.get(name)
        policy = _policy(name, route)
        if rules is None and policy is None:
            continue
        uses = dict.fromkeys((name, *(() if rules is None else rules.uses)))
        targets: dict[str, Backend] = {other: models[other].chat for other in uses}
        if policy is not None:
            targets = {
                target: Cached(
                    backend,
                    shelf,
                    policy,
                    Scope(route=name, target=target, release=release, version=plan.version),
                    residency=residency,
                    snapshot=snapshots.get(target, no_snapshot),
                )
                for target, backend in targets.items()
            }
        chat = targets[name]
        if rules is not None:
            chat = Router(name, rules.rules, targets, sources=rules.sources, version=plan.version)
        reached = [models[other] for other in uses]
        made[name] = replace(
            models[name],
            chat=chat,
            candidates=tuple(dict.fromkeys(t for served in reached for t in served.candidates)),
            calls=max(served.calls for served in reached),
            added_tokens=max(served.added_tokens for served in reached),
        )
    return made


def _policy(name: str, route: RouteSettings) -> CachePolicy | None:
    where = f"routes.{name}"
    if not 0 <= route.cache_hit_price <= 1:
        raise ConfigError(f"{where}.cache_hit_price = {route.cache_hit_price} is not in 0 to 1")
    if route.cache_ttl_s < 0:
        raise ConfigError(f"{where}.cache_ttl_s = {route.cache_ttl_s} is negative")
    if not route.cache_ttl_s:
        if route.cache_any or route.cache_hit_price:
            raise ConfigError(
                f"{where}: cache_any and cache_hit_price are of a cache; set cache_ttl_s"
            )
        return None
    return CachePolicy(
        ttl_s=route.cache_ttl_s,
        any_sampling=route.cache_any,
        hit_ppm=round(route.cache_hit_price * _MILLION),
    )
