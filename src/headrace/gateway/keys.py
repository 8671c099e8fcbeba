"""API keys: headers become a `Caller`, or 401 or 403; before the body is read.

A token's SHA-256 is looked up in the store once and then in memory, so a known key costs
microseconds. `headrace.store.changes` empties the memory when a key is revoked, rotated or made:
within about half a second in every replica. A team is a tenant of the prefix cache.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from headrace.errors import InvalidParameter, NotFound, PermissionDenied, Unauthorized
from headrace.store.changes import Changes
from headrace.store.database import PROMPT_S, Database
from headrace.store.identity import FEATURE, Key, digest, find_key, get_key
from headrace.types import Caller

FEATURE_HEADER = b"x-headrace-feature"
CSRF_HEADER = "x-headrace-csrf"
_CACHED = 10_000
_LOOKUPS_AT_ONCE = 8
"""Made-up tokens miss the memory; they must not take every connection of the pool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a request says of itself."""

    authorization: str | None
    api_key: str | None = None
    """The `x-api-key` header, where Anthropic's clients put it."""
    feature: str | None = None
    """The `x-headrace-feature` header: what the request is for, in limits and in the spend."""
    route: str = ""
    method: str = "GET"
    cookie: str | None = None
    """The `cookie` header: of a person who has logged in."""
    origin: str | None = None
    """The `origin` header, which a browser sends with what could change something."""
    csrf: str | None = None
    """The `x-headrace-csrf` header, which only a page of this origin can send."""

    @classmethod
    def of(cls, header: Callable[[str], str | None], *, method: str, route: str) -> "Credentials":
        """Those of a request, by its headers' lower-case names; a key goes before a cookie."""
        authorization, api_key = header("authorization"), header("x-api-key")
        feature = header(FEATURE_HEADER.decode())
        if authorization or api_key:
            return cls(
                authorization=authorization,
                api_key=api_key,
                feature=feature,
                route=route,
                method=method,
            )
        return cls(
            authorization=None,
            feature=feature,
            route=route,
            method=method,
            cookie=header("cookie"),
            origin=header("origin"),
            csrf=header(CSRF_HEADER),
        )

    """Of the route asked for, what comes before a name in its template."""


class Keys(Protocol):
    """Whatever knows who asks."""

    async def identify(self, credentials: Credentials) -> Caller:
        """Who sends this.

        Raises:
            Unauthorized: No key, not one of ours, or one that has ended.
            PermissionDenied: The key is not for this route or feature.
            StoreUnavailable: Nobody can say.
        """
        ...


class _Known(NamedTuple):
    key: Key
    ends_s: float
    callers: dict[str, Caller]
    """By feature; at most one a feature that the key may use or has used."""


class StoreKeys:
    """The keys in a store."""

    def __init__(
        self, database: Database, changes: Changes, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._generation = 0
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        changes.on_change(self._forget)

    async def identify(self, credentials: Credentials) -> Caller:
        """As `Keys.identify`."""
        self._changes.check_fresh()
        sha256 = digest(_token(credentials))
        known = self._known.get(sha256)
        if known is None:
            known = await self._look_up(sha256)
        if self._clock() >= known.ends_s:
            raise Unauthorized("this API key has expired or was revoked")
        key = known.key
        check_route(key.id, key.routes, credentials.route)
        feature = credentials.feature or ""
        caller = known.callers.get(feature)
        if caller is None:
            caller = _caller(key, feature)
            if len(known.callers) < _CACHED:
                known.callers[feature] = caller
        return caller

    def _forget(self) -> None:
        self._known.clear()
        self._generation += 1

    async def _look_up(self, sha256: str) -> _Known:
        async with self._lookups:
            generation = self._generation
            key = await self._database.read(lambda c: find_key(c, sha256), patience_s=PROMPT_S)
        if key is None:
            raise Unauthorized("this API key is not valid here")
        ends = [at for at in (key.expires_s, key.revoked_s) if at is not None]
        known = _Known(key, min(ends, default=float("inf")), {})
        if generation == self._generation:  # else what was read may be from before the change
            if len(self._known) >= _CACHED:
                self._known.pop(next(iter(self._known)))
            self._known[sha256] = known
        return known


async def caller_by_id(
    database: Database, id: str, *, feature: str, route: str, now_s: float
) -> Caller:
    """Who made something that runs later, with the rights that the key has now.

    Raises: As `Keys.identify`.
    """
    try:
        key = await database.read(lambda connection: get_key(connection, id))
    except NotFound:
        raise Unauthorized(f"the key {id[:80]!r} that asked for this is gone") from None
    if not key.live(now_s):
        raise Unauthorized(f"the key {id} that asked for this has expired or was revoked")
    check_route(key.id, key.routes, route)
    return _caller(key, feature)


def check_route(key_id: str, routes: frozenset[str], route: str) -> None:
    """Raises: PermissionDenied where a key that is scoped to routes is not for this one."""
    if routes and not within(route, routes):
        raise PermissionDenied(
            f"the key {key_id} is for {', '.join(sorted(routes))}, not for {route[:80]}"
        )


def _token(credentials: Credentials) -> str:
    header = credentials.authorization
    if not header:
        if credentials.api_key:
            return credentials.api_key.strip()
        raise Unauthorized("no API key; send the header Authorization: Bearer KEY")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("the Authorization header must be: Bearer KEY")
    return token.strip()


def within(route: str, allowed: Collection[str]) -> bool:
    """A key for `/v1/responses` is for `/v1/responses/{id}/cancel` too, but not for another
    route whose name only begins so."""
    return any(at and f"{route}/".startswith(at.rstrip("/") + "/") for at in allowed)


def check_feature(feature: str) -> None:
    """Raises: InvalidParameter for what is no feature's name."""
    if feature and not FEATURE.fullmatch(feature):
        raise InvalidParameter(
            f"the header {FEATURE_HEADER.decode()} is {feature[:80]!r}; it takes letters, digits, "
            "'.', '_' and '-', at most 64"
        )


def _caller(key: Key, feature: str) -> Caller:
    check_feature(feature)
    if key.features and feature not in key.features:
        given = f"not for {feature!r}" if feature else "and the request names none"
        raise PermissionDenied(
            f"the key {key.id} is for the features {', '.join(sorted(key.features))}, {given}; "
            f"send the header {FEATURE_HEADER.decode()}"
        )
    return Caller(
        key_id=key.id,
        tenant=f"team:{key.team}",
        org=key.org,
        team=key.team,
        user=key.user or "",
        feature=feature,
        data_classes=frozenset({key.data_class}) if key.data_class else frozenset(),
        role=key.role.value,
        models=key.models,
        routes=key.routes,
    )
