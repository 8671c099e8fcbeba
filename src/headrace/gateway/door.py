"""`[oidc]` → what logging in needs: the issuer, the rules, and keys that also know people."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from headrace.config import OidcSettings
from headrace.errors import ConfigError
from headrace.gateway.claims import ClaimRules
from headrace.gateway.keys import Keys
from headrace.gateway.people import People
from headrace.providers.oidc import Issuer
from headrace.providers.oidc_metadata import check_address
from headrace.store.changes import Changes
from headrace.store.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """What logging in needs."""

    issuer: Issuer
    client_id: str
    people: People
    rules: ClaimRules
    database: Database
    changes: Changes
    public_url: str
    """As browsers have it, without a slash at its end."""
    session_s: int

    @property
    def secure(self) -> bool:
        """Whether cookies go over https only."""
        return self.public_url.startswith("https://")

    @property
    def redirect(self) -> str:
        """Where the issuer sends browsers back to."""
        return f"{self.public_url}/auth/callback"


def session_cookie(public_url: str) -> str:
    """The session cookie's name; over https one that no subdomain and no plain page can set."""
    return "__Host-headrace" if public_url.startswith("https://") else "headrace_session"


@contextlib.asynccontextmanager
async def open_door(
    settings: OidcSettings,
    *,
    secret: Callable[[], str] | None,
    keys: Keys,
    database: Database,
    changes: Changes,
    address: str,
) -> AsyncGenerator[Door]:
    """Ready for people; the issuer is first asked when somebody comes.

    Args:
        settings: With an issuer.
        secret: The client's; None = it has none.
        keys: Know whoever sends a key.
        database: For users and sessions.
        changes: Of it.
        address: How this service listens, as a URL: its public one where the settings name none.

    Raises: ConfigError.
    """
    public = (settings.public_url or address).rstrip("/")
    check_address("oidc.public_url", public)
    parts = urlsplit(public)
    if parts.path or parts.query or parts.fragment:
        raise ConfigError(
            f"oidc.public_url = {public[:200]!r} has a path; the service is at the root of its host"
        )
    if settings.session_s < 60:
        raise ConfigError(f"oidc.session_s = {settings.session_s}; a session lasts at least 60 s")
    rules = ClaimRules.of(settings)
    async with Issuer(settings, secret) as issuer:

        async def claims(token: str) -> Mapping[str, Any]:
            return await issuer.claims(token, audience=settings.audience or settings.client_id)

        people = People(
            keys,
            database,
            changes,
            rules,
            cookie=session_cookie(public),
            origin=f"{parts.scheme}://{parts.netloc}",
            claims=claims if settings.bearer else None,
        )
        yield Door(
            issuer=issuer,
            client_id=settings.client_id,
            people=people,
            rules=rules,
            database=database,
            changes=changes,
            public_url=public,
            session_s=settings.session_s,
        )
