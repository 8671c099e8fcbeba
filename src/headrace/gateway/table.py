"""The table of routes: a method and a path → the route for it, 404 or 405 told apart.

A template is a path in which `{name}` stands for one piece between slashes and `{name:path}` for
all that is left. A path without names is found before one with them; of those the first in the
table that fits.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from headrace.errors import MethodNotAllowed, NotFound
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Services
from headrace.types import Caller

Handler: TypeAlias = Callable[[Services, Exchange, Flight, Caller], Awaitable[None]]

_NAME = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRoute:
    """One route that needs a key. POST is accounted for: it makes a usage record."""

    method: str
    template: str
    """As the module says: `/v1/responses/{id}`; also the route's name in metrics and records."""
    handler: Handler
    prefix: str = field(init=False)
    """The template up to its first name: what a key's routes are compared with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", self.template.partition("/{")[0])


class Found(NamedTuple):
    """A route and what its template's names stand for."""

    route: DataRoute
    params: Mapping[str, str]


class Table:
    """Routes by path."""

    def __init__(self, routes: Sequence[DataRoute]) -> None:
        self.routes = tuple(routes)
        self._plain: dict[str, dict[str, DataRoute]] = {}
        self._named: dict[str, tuple[re.Pattern[str], dict[str, DataRoute]]] = {}
        for route in routes:
            if "{" in route.template:
                entry = (_pattern(route.template), {})
                methods = self._named.setdefault(route.template, entry)[1]
            else:
                methods = self._plain.setdefault(route.template, {})
            if methods.setdefault(route.method, route) is not route:
                raise ValueError(f"{route.method} {route.template} is twice in the table")

    def find(self, method: str, path: str, *, also: Iterable[str] = ()) -> Found:
        """The route of a request; `also` is what an error lists beside the table.

        Raises:
            NotFound: No route has this path; it lists those that there are.
            MethodNotAllowed: One has, for other methods.
        """
        methods, params = self._methods(path)
        route = methods.get(method)
        if route is not None:
            return Found(route, params)
        if not methods:
            there = ", ".join(dict.fromkeys([*(route.template for route in self.routes), *also]))
            raise NotFound(f"there is no {path[:80]!r} here; there is: {there}")
        raise MethodNotAllowed(
            f"{path[:80]} takes {' and '.join(sorted(methods))}, not {method[:16]}"
        )

    def allowed(self, path: str) -> list[str]:
        """The methods of a path; none where it is not there."""
        return sorted(self._methods(path)[0])

    def _methods(self, path: str) -> tuple[Mapping[str, DataRoute], Mapping[str, str]]:
        plain = self._plain.get(path)
        if plain is not None:
            return plain, {}
        for pattern, methods in self._named.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        return {}, {}


def _pattern(template: str) -> re.Pattern[str]:
    made, at = "", 0
    for match in _NAME.finditer(template):
        piece = ".+" if match[2] else "[^/]+"
        made += re.escape(template[at : match.start()]) + f"(?P<{match[1]}>{piece})"
        at = match.end()
    return re.compile(made + re.escape(template[at:]), re.DOTALL)
