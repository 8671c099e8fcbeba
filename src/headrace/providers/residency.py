"""Data classes → where a request may go; enforced at the leaf, where it would leave.

`Resident` wraps every real backend, so no rule, pool, fallback or hedge can send a request to a
place that its classes forbid: what they choose is refused there, and the next is asked. Closed on
doubt: an unknown class is refused, a place of unknown region is in no region.
"""

import fnmatch
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from headrace.config import DataClassSettings, Settings
from headrace.errors import ConfigError, InvalidParameter, PlaceForbidden
from headrace.providers.gathering import gatherer
from headrace.types import (
    Backend,
    Caller,
    ChatRequest,
    CompletionBackend,
    CompletionRequest,
    Event,
    TokenCounter,
)

HEADER = "x-headrace-data-class"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a model runs."""

    provider: str = ""
    """As the settings name it; empty = the local engine."""
    managed: bool = False
    region: str = ""

    def __str__(self) -> str:
        whose = f"provider {self.provider}" if self.provider else "the local engine"
        kind = "managed" if self.managed else "one's own"
        return f"{whose} ({kind}, {self.region or 'no region known'})"


class Residency:
    """The rules of one configuration."""

    def __init__(
        self,
        classes: Mapping[str, DataClassSettings] | None = None,
        *,
        air_gap: bool = False,
        default: str = "",
    ) -> None:
        """
        Raises: ConfigError where the default is no class.
        """
        self._classes = dict(classes or {})
        self._air_gap = air_gap
        if default and default not in self._classes:
            raise ConfigError(
                f"routing.default_data_class = {default!r} is no class; write "
                f"[data_classes.{default}]"
            )
        self._default = frozenset({default}) if default else frozenset[str]()

    @classmethod
    def of(cls, settings: Settings) -> "Residency":
        """As the settings have it. Raises: ConfigError."""
        return cls(
            settings.data_classes,
            air_gap=settings.routing.air_gap,
            default=settings.routing.default_data_class,
        )

    @property
    def rules(self) -> dict[str, object]:
        """What a configuration's hash covers."""
        return {
            "air_gap": self._air_gap,
            "default": sorted(self._default),
            "classes": self._classes,
        }

    def classes_of(self, own: frozenset[str], header: str | None) -> frozenset[str]:
        """The classes of a request: its key's and its header's, else the default.

        Raises: InvalidParameter for a class nobody configured.
        """
        found = own | ({header.strip()} if header and header.strip() else frozenset[str]())
        for name in sorted(found):
            if name not in self._classes:
                known = ", ".join(self._classes) or "none"
                raise InvalidParameter(
                    f"the data class {name[:80]!r} is not known here; there is: {known}. It comes "
                    f"from the header {HEADER} or from the key",
                    param=HEADER,
                )
        return found or self._default

    def forbids(self, caller: Caller, place: Place) -> str:
        """Why a caller's request may not go there; empty = it may."""
        if self._air_gap and place.managed:
            return f"air gap: {place} is a managed API"
        for name in sorted(caller.data_classes or self._default):
            rule = self._classes.get(name)
            if rule is None:
                return f"the data class {name!r} is not known"
            if place.managed and not rule.managed:
                return f"the data class {name!r} may not go to a managed API: {place}"
            if rule.regions and not any(
                fnmatch.fnmatchcase(place.region, pattern)
                for pattern in rule.regions
                if place.region
            ):
                return f"the data class {name!r} is for {', '.join(rule.regions)}, not {place}"
            if rule.providers and place.provider and place.provider not in rule.providers:
                return f"the data class {name!r} is for {', '.join(rule.providers)}, not {place}"
        return ""

    def check(self, caller: Caller, place: Place) -> None:
        """Raises: PlaceForbidden."""
        reason = self.forbids(caller, place)
        if reason:
            raise PlaceForbidden(reason)

    def may_keep(self, caller: Caller) -> bool:
        """Whether answers of a caller's request may be kept in a cache."""
        classes = caller.data_classes or self._default
        return all(name in self._classes and self._classes[name].cache for name in classes)


class Resident:
    """A backend in a place. Raises: PlaceForbidden before anything is sent."""

    def __init__(self, place: Place, backend: Backend, residency: Residency) -> None:
        self.place = place
        self._backend = backend
        self._gather = gatherer(backend)
        self._residency = residency

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`; no layer on the way of its events."""
        reason = self._residency.forbids(request.caller, self.place)
        return _refused(request, self.place, reason) if reason else self._backend.stream(request)

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The same events into a list."""
        reason = self._residency.forbids(request.caller, self.place)
        if reason:
            _note_refusal(request, self.place, reason)
            raise PlaceForbidden(reason)
        await self._gather(request, into)


class ResidentCompletions:
    """A completion backend in a place, likewise."""

    def __init__(self, place: Place, backend: CompletionBackend, residency: Residency) -> None:
        self._place = place
        self._backend = backend
        self._residency = residency

    def complete(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """As `CompletionBackend.complete`."""
        reason = self._residency.forbids(request.caller, self._place)
        return _refused(request, self._place, reason) if reason else self._backend.complete(request)


class ResidentCounter:
    """A counter in a place, likewise: a provider that counts a prompt reads it."""

    def __init__(self, place: Place, counter: TokenCounter, residency: Residency) -> None:
        self._place = place
        self._counter = counter
        self._residency = residency

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        self._residency.check(request.caller, self._place)
        return await self._counter.count(request)


async def _refused(
    request: ChatRequest | CompletionRequest, place: Place, reason: str
) -> AsyncIterator[Event]:
    _note_refusal(request, place, reason)
    raise PlaceForbidden(reason)
    yield  # what makes it a stream


def _note_refusal(request: ChatRequest | CompletionRequest, place: Place, reason: str) -> None:
    request.trail.note("residency", f"not sent: {reason}", place=str(place))
