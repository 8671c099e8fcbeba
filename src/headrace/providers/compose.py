"""`[routes.NAME]` → one backend a route: leaf, pool or cascade, limited, hedged, with fallbacks.

Two backends a name. The *core* is what other routes mean when they name it: leaf, pool or cascade,
with its limit and its hedge. The *chain*, which clients get, adds the route's own fallbacks; so two
routes may stand in for each other without going in circles. Pools and cascades may be of pools.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from headrace.config import RouteSettings
from headrace.errors import ConfigError
from headrace.providers.balance import POLICIES, Member, Pool
from headrace.providers.cascade import Cascade, Tier
from headrace.providers.checks import parse_check
from headrace.providers.hedging import Hedged, HedgePolicy
from headrace.providers.load import Load, Tracked
from headrace.providers.resilience import Fallback
from headrace.types import Backend, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Core:
    """A route without its fallbacks and rules."""

    backend: Backend
    load: Load
    """Counts where a pool, a hedge or a limit asks for it; else it knows nothing."""
    targets: tuple[Target, ...]
    """Every model that it may ask."""
    calls: int
    """The most calls that one request may be billed for."""
    told: str
    """What it is, for people."""


class Composer:
    """Composes the routes of one configuration."""

    def __init__(
        self, routes: Mapping[str, RouteSettings], leaves: Mapping[str, tuple[Target, Backend]]
    ) -> None:
        """
        Args:
            routes: By name.
            leaves: The backend of every route with a provider, and of the local model.
        """
        self._routes = routes
        self._leaves = leaves
        self._cores: dict[str, Core] = {}
        self._making: list[str] = []
        self._watched = {
            name
            for route_name, route in routes.items()
            for name in (
                *route.targets,
                *((route_name,) if route.max_running or route.hedge_percentile else ()),
            )
        }

    def core(self, name: str) -> Core:
        """Raises: ConfigError for routes that go in circles, or settings that cannot be."""
        found = self._cores.get(name)
        if found is not None:
            return found
        if name in self._making:
            circle = " -> ".join([*self._making[self._making.index(name) :], name])
            raise ConfigError(f"routes go in circles: {circle}")
        self._making.append(name)
        try:
            made = self._cores[name] = self._core(name)
        finally:
            self._making.pop()
        return made

    def chain(self, name: str) -> Core:
        """The core with the route's fallbacks, as clients get it. Raises: ConfigError."""
        core = self.core(name)
        route = self._routes.get(name)
        if route is None or not route.fallback:
            return core
        self._check_names(name, "fallback", route.fallback)
        links = [core, *(self.core(other) for other in route.fallback)]
        return Core(
            backend=Fallback(
                [link.backend for link in links],
                names=[name, *route.fallback],
                slow_after_s=route.slow_after_s,
            ),
            load=core.load,
            targets=_unique(link.targets for link in links),
            calls=sum(link.calls for link in links),
            told=f"{core.told}; then {', '.join(route.fallback)}",
        )

    def _core(self, name: str) -> Core:
        route = self._routes.get(name)
        if name in self._leaves:
            target, backend = self._leaves[name]
            whose = f"provider {target.provider}" if target.provider else "the local engine"
            core = self._made(name, backend, told=f"{target.model} of {whose}", targets=(target,))
        elif route is None:
            raise AssertionError(f"{name} was checked before")
        elif route.targets:
            core = self._pool(name, route)
        else:
            core = self._cascade(name, route)
        return self._hedged(name, route, core) if route is not None else core

    def _pool(self, name: str, route: RouteSettings) -> Core:
        self._check_names(name, "targets", route.targets)
        if route.balance not in POLICIES:
            raise ConfigError(
                f"routes.{name}.balance = {route.balance!r} is not one of {', '.join(POLICIES)}"
            )
        weights = route.weights or (1.0,) * len(route.targets)
        if len(weights) != len(route.targets) or min(weights) <= 0:
            raise ConfigError(
                f"routes.{name}.weights = {list(weights)} must be {len(route.targets)} numbers "
                "above 0, one for each of its targets"
            )
        cores = [self.core(other) for other in route.targets]
        members = [
            Member(name=other, backend=core.backend, load=core.load, weight=weight)
            for other, core, weight in zip(route.targets, cores, weights, strict=True)
        ]
        pool = Pool(name, members, route.balance, slow_after_s=route.slow_after_s)
        return self._made(
            name,
            pool,
            targets=_unique(core.targets for core in cores),
            calls=sum(core.calls for core in cores),
            told=f"{route.balance} of {', '.join(route.targets)}",
        )

    def _cascade(self, name: str, route: RouteSettings) -> Core:
        self._check_names(name, "cascade", route.cascade)
        if len(route.cascade) < 2 or not route.checks:
            raise ConfigError(f"routes.{name}.cascade needs at least two routes, and checks")
        cores = [self.core(other) for other in route.cascade]
        tiers = [
            Tier(name=other, backend=core.backend)
            for other, core in zip(route.cascade, cores, strict=True)
        ]
        checks = [parse_check(spec, where=f"routes.{name}.checks") for spec in route.checks]
        return self._made(
            name,
            Cascade(tiers, checks),
            targets=_unique(core.targets for core in cores),
            calls=sum(core.calls for core in cores),
            told=f"{', then '.join(route.cascade)} where an answer fails {', '.join(route.checks)}",
        )

    def _made(
        self, name: str, backend: Backend, *, targets: tuple[Target, ...], told: str, calls: int = 1
    ) -> Core:
        """A core, with its load watched where somebody wants to know it."""
        if name not in self._watched:
            return Core(backend=backend, load=Load(), targets=targets, calls=calls, told=told)
        route = self._routes.get(name)
        tracked = Tracked(name, backend, max_running=0 if route is None else route.max_running)
        return Core(backend=tracked, load=tracked.load, targets=targets, calls=calls, told=told)

    def _hedged(self, name: str, route: RouteSettings, core: Core) -> Core:
        if not route.hedge:
            if route.hedge_after_s or route.hedge_percentile:
                raise ConfigError(
                    f"routes.{name}: hedge_after_s and hedge_percentile say when, `hedge` must say "
                    "which route is asked too"
                )
            return core
        if not (route.hedge_after_s > 0 or 0 < route.hedge_percentile < 1):
            raise ConfigError(
                f"routes.{name}.hedge needs hedge_after_s above 0, or hedge_percentile between 0 "
                "and 1"
            )
        # Its own name means the same backend once more.
        second = core if route.hedge == name else self._named(name, "hedge", route.hedge)
        policy = HedgePolicy(after_s=route.hedge_after_s, percentile=route.hedge_percentile)
        percentile: Callable[[float], float | None] = core.load.percentile
        when = (
            f"after {policy.after_s:g} s"
            if policy.after_s
            else f"when later than {policy.percentile:.0%} were"
        )
        hedged = Hedged(
            (name, core.backend), (route.hedge, second.backend), policy, percentile=percentile
        )
        return Core(
            backend=hedged,
            load=core.load,
            targets=_unique((core.targets, second.targets)),
            calls=core.calls + second.calls,
            told=f"{core.told}; {when} {route.hedge} too",
        )

    def _named(self, name: str, setting: str, other: str) -> Core:
        self._check_names(name, setting, (other,))
        return self.core(other)

    def _check_names(self, name: str, setting: str, others: tuple[str, ...]) -> None:
        known = [item for item in (*self._leaves, *self._routes) if item != name]
        for other in others:
            if other not in known:
                there = ", ".join(dict.fromkeys(known)) or "none"
                raise ConfigError(
                    f"routes.{name}.{setting}: {other!r} is not another model; there is: {there}"
                )
        if len(set(others)) < len(others):
            raise ConfigError(f"routes.{name}.{setting} names a route twice")


def _unique(
    groups: Iterator[tuple[Target, ...]] | tuple[tuple[Target, ...], ...],
) -> tuple[Target, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(groups)))
