"""People beside keys: a session's cookie or the issuer's token becomes a `Caller`.

A key goes before a cookie. A session is its user as the user is now: what is disabled, moved or
given another role is so at the next look for changes. A cookie alone changes nothing: whatever is
not GET also needs the header `x-headrace-csrf`, which only a page of this origin can know, and must
come from this origin. Source: OWASP cheat sheets on sessions and on CSRF.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import PermissionDenied, Unauthorized
from headrace.gateway.claims import ClaimRules
from headrace.gateway.keys import CSRF_HEADER, Credentials, Keys, check_feature
from headrace.store.audit import Actor, record
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import digest
from headrace.store.people import Person, admit
from headrace.store.sessions import Session, find_session
from headrace.types import Caller

_CACHED = 10_000
_LOOKUPS_AT_ONCE = 8
_SAFE = ("GET", "HEAD")
T = TypeVar("T")


class _Known(NamedTuple):
    person: Person
    id: str
    """What the caller's `key_id` is."""
    ends_s: float


class People:
    """`Keys` that also know people."""

    def __init__(
        self,
        keys: Keys,
        database: Database,
        changes: Changes,
        rules: ClaimRules,
        *,
        cookie: str,
        origin: str,
        claims: Callable[[str], Awaitable[Mapping[str, Any]]] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:

        keys: Know whoever sends a key.
        database: Has sessions and users.
        changes: Says when they have changed.
        rules: Say who a token's claims are of.
        cookie: The session cookie's name.
        origin: This service's own, as browsers send it.
        claims: Those of an issuer's token; None = the API takes none.
        clock: Unix time.
        """
        self._keys = keys
        self._database = database
        self._changes = changes
        self._rules = rules
        self._cookie = cookie
        self._origin = origin
        self._claims = claims
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._generation = 0
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        changes.on_change(self._forget)

    async def identify(self, credentials: Credentials) -> Caller:
        """As `Keys.identify`."""
        header = credentials.authorization
        if header or credentials.api_key:
            token = _jwt(header) if self._claims is not None else ""
            if not token:
                return await self._keys.identify(credentials)
            known = await self._recall(token, self._admit)
        else:
            token = cookie_value(credentials.cookie, self._cookie)
            if not token:
                return await self._keys.identify(credentials)
            known = await self._recall(token, self._find)
            self._check_origin(token, credentials)
        if self._clock() >= known.ends_s:
            raise Unauthorized("this session has ended; log in again")
        return _caller(known, credentials.feature or "")

    async def session(self, token: str) -> Session | None:
        """The live session of a cookie's token, straight from the store."""
        found = await self._database.read(lambda c: find_session(c, digest(token)))
        return found if found is not None and _end(found) > self._clock() else None

    def _check_origin(self, token: str, credentials: Credentials) -> None:
        if credentials.method in _SAFE:
            return
        if credentials.origin not in (None, self._origin):
            raise PermissionDenied(
                f"a page of {str(credentials.origin)[:80]!r} asks with a cookie of {self._origin}"
            )
        if not hmac.compare_digest((credentials.csrf or "").encode(), csrf_token(token).encode()):
            raise PermissionDenied(
                f"a {credentials.method[:16]} with a session's cookie also needs the header "
                f"{CSRF_HEADER}, as GET /auth/session says it"
            )

    async def _recall(self, token: str, look: Callable[[str], Awaitable[_Known]]) -> _Known:
        self._changes.check_fresh()
        sha256 = digest(token)
        known = self._known.get(sha256)
        if known is None:
            async with self._lookups:
                generation = self._generation
                known = await look(token)
            if generation == self._generation:
                if len(self._known) >= _CACHED:
                    self._known.pop(next(iter(self._known)))
                self._known[sha256] = known
        return known

    async def _find(self, token: str) -> _Known:
        found = await self._database.read(lambda c: find_session(c, digest(token)))
        if found is None:
            raise Unauthorized("this session is not known here; log in again")
        return _Known(found.person, found.id, _end(found))

    async def _admit(self, token: str) -> _Known:
        assert self._claims is not None
        claims = await self._claims(token)
        person = await settle(self._database, self._rules, claims, now_s=int(self._clock()))
        id = f"jwt_{hashlib.sha256(str(person.account).encode()).hexdigest()[:16]}"
        return _Known(person, id, float(claims["exp"]))

    def _forget(self) -> None:
        self._known.clear()
        self._generation += 1


async def settle(
    database: Database,
    rules: ClaimRules,
    claims: Mapping[str, Any],
    *,
    now_s: int,
    then: Callable[[AsyncConnection, Person], Awaitable[None]] | None = None,
) -> Person:
    """The user of an issuer's claims, made or brought up to them; what changed is audited.

    Args:
        then: Done in the same transaction.

    Raises: As `ClaimRules.read` and `headrace.store.people.admit`.
    """
    claimed = rules.read(claims)

    async def work(connection: AsyncConnection) -> Person:
        admitted = await admit(connection, claimed, default_team=rules.default_team, now_s=now_s)
        person, before = admitted
        if before != person:
            await record(
                connection,
                Actor(id=person.id, via="login"),
                "user.add" if before is None else "user.change",
                person.id,
                org=person.org,
                team=person.team,
                detail={"account": claimed.account, "role": person.role.value, "by": "claims"},
                now_s=now_s,
            )
        if then is not None:
            await then(connection, person)
        return person

    return await database.write(work)


def csrf_token(token: str) -> str:
    """What a page must send beside a session's cookie; of the session and of nothing else."""
    return hmac.new(token.encode(), b"headrace csrf", hashlib.sha256).hexdigest()


def cookie_value(header: str | None, name: str) -> str:
    """A cookie of a `Cookie` header; empty where it is not there."""
    for part in (header or "").split(";"):
        found, _, value = part.strip().partition("=")
        if found == name:
            return value
    return ""


def _jwt(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token.count(".") == 2 else ""


def _end(session: Session) -> float:
    ends = (session.expires_s, session.revoked_s, session.person.disabled_s)
    return min(at for at in ends if at is not None)


def _caller(known: _Known, feature: str) -> Caller:
    check_feature(feature)
    person = known.person
    return Caller(
        key_id=known.id,
        tenant=f"team:{person.team}",
        org=person.org,
        team=person.team,
        user=person.id,
        feature=feature,
        role=person.role.value,
        person=True,
    )
