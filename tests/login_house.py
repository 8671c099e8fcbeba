"""A gateway with people: two organizations, three teams, an issuer, in one process."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from databases import fresh
from gateway_server import services
from headrace.config import OidcSettings
from headrace.gateway import admin, login
from headrace.gateway.asgi import build
from headrace.gateway.door import Door, open_door
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import StoreKeys
from headrace.gateway.services import Services
from headrace.store import identity
from headrace.store.audit import Entry, Wanted, entries
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import NewKey, RoleName
from oidc_server import CLIENT, SECRET

NOW = 1_764_000_000
HOME = "http://127.0.0.1:9"
TEAMS = {"red": "acme", "blue": "acme", "far": "other"}


@dataclass
class House:
    database: Database
    changes: Changes
    door: Door
    http: httpx.AsyncClient
    """A browser before the gateway: keeps cookies, follows nothing."""
    app: Any
    admin_key: str

    async def begin(self, next: str = "/") -> httpx.URL:
        """Where the gateway sends a browser that wants to log in."""
        answer = await self.http.get("/login", params={"next": next})
        assert answer.status_code == 303, answer.text
        return httpx.URL(answer.headers["location"])

    async def session(self) -> dict[str, Any]:
        answer = await self.http.get("/auth/session")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    def browser(self) -> httpx.AsyncClient:
        """Another one."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url=HOME)

    async def audited(self, action: str) -> list[Entry]:
        return await self.database.read(lambda c: entries(c, Wanted(action=action)))


@contextlib.asynccontextmanager
async def house(
    directory: Path, issuer: str, *, secret: str | None = SECRET, **more: Any
) -> AsyncGenerator[House]:
    """Open one; `more` are settings of `[oidc]`."""
    given: dict[str, Any] = {"default_team": "red", **more}
    settings = OidcSettings(issuer=issuer, client_id=CLIENT, **given)
    async with fresh("sqlite", directory) as database:
        made = await database.write(_people)
        changes = Changes(database)
        await changes.poll()
        async with open_door(
            settings,
            secret=None if secret is None else lambda: secret,
            keys=StoreKeys(database, changes),
            database=database,
            changes=changes,
            address=HOME,
        ) as door:
            extra: dict[str, ASGIApp] = {path: login.build(door) for path in login.PATHS}
            extra[admin.PREFIX] = admin.build(database, door.people, changes=changes)
            base: Services = replace(services(), keys=door.people, extra=extra)
            app: Any = build(base)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url=door.public_url) as http:
                yield House(database, changes, door, http, app, made)


async def _people(connection: Any) -> str:
    for org in ("acme", "other"):
        await identity.add_org(connection, org, now_s=NOW)
    for team, org in TEAMS.items():
        await identity.add_team(connection, team, org=org, now_s=NOW)
    new = NewKey(org="acme", team="red", role=RoleName.ADMIN)
    return (await identity.make_key(connection, new, now_s=NOW)).token
