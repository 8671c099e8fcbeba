"""Two organizations, three teams, each with one of everything: for the test that nothing is shared.

Resources are made through the API by each team's own key where the API makes them. The teams:
`red` (acme) attacks; `blue` (acme too) and `far` (of another organization) are attacked.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import ColumnElement, Table, and_, insert, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import fresh
from gateway_server import Records
from gateway_server import services as scripted
from headrace.config import CacheSettings, TraceSettings
from headrace.gateway import admin
from headrace.gateway.asgi import build
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.caching.cached import Cached, CachePolicy
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.delivery_queue import DeliveryQueue
from headrace.gateway.erasure import Erasure
from headrace.gateway.file_store import FileLimits, FileStore
from headrace.gateway.keys import StoreKeys
from headrace.gateway.services import ServedEmbedder, Services
from headrace.gateway.stored import StoredResponses
from headrace.gateway.traces import Traces, rules
from headrace.retrieval.library import Library
from headrace.store import identity, limits, people, sessions
from headrace.store.blobs import open_blobs
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import NewKey, RoleName
from headrace.store.limits import Unit
from headrace.store.people import Change
from headrace.store.tables import metadata, transactions
from headrace.store.traces import Policy, set_policy
from headrace.testing import reply
from headrace.testing.embedder import HashEmbedder
from headrace.types import ChatRequest, IndexOwner, Target
from index_library import library

ATTACKER = "red"
TEAMS = {"red": "acme", "blue": "acme", "far": "other"}
VICTIMS = ("blue", "far")


@dataclass
class World:
    database: Database
    http: httpx.AsyncClient
    books: Library
    shelf: Shelf
    tokens: dict[tuple[str, RoleName], str] = field(default_factory=dict)
    made: dict[str, dict[str, str]] = field(default_factory=dict)
    """Team -> kind of resource -> its id."""

    async def ask(
        self, team: str, role: RoleName, method: str, path: str, **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[team, role]}"}
        return await self.http.request(method, path, headers=headers, **options)

    def marks(self, team: str) -> list[str]:
        """What must be in no answer to another team: its ids, its texts, its names."""
        return [*self.made[team].values(), secret(team)]

    async def at_rest(self) -> dict[str, Any]:
        """Every row that is a victim's, in any table, and what its files hold."""
        rows = await self.database.read(_rows_of_victims)
        for team in VICTIMS:
            owner = IndexOwner(TEAMS[team], team)
            names = [card.spec.name for card in await self.books.list(owner)]
            pages = [await self.books.documents(name, owner, None) for name in names]
            rows[f"indexes of {team}"] = list(zip(names, pages, strict=True))
        return rows


def secret(team: str) -> str:
    """What only this team says and is told."""
    return f"the-secret-of-{team}"


@contextlib.asynccontextmanager
async def world(directory: Path, kind: str = "sqlite") -> AsyncGenerator[World]:
    """Open one."""
    async with fresh(kind, directory) as database, contextlib.AsyncExitStack() as opened:
        records, changes = Records(), Changes(database)
        await changes.poll()
        keys = StoreKeys(database, changes)
        files = FileStore(database, open_blobs(database, directory / "files"), FileLimits())
        trace_rules = rules(TraceSettings(content_rate=1.0))
        traces = Traces(
            database, database, None, trace_rules, pipeline=records.pipelines.of("store")
        )
        await traces.refresh()
        plain = scripted(_echo)
        shelf = Shelf(database, CacheSettings())
        erasure = Erasure(database, traces=traces, files=files, shelf=shelf)
        plane = admin.build(database, keys, changes=changes, traces=traces, erasure=erasure)
        kept = replace(
            plain.models["m"],
            chat=Cached(
                plain.models["m"].chat,
                shelf,
                CachePolicy(ttl_s=600, any_sampling=True),
                Scope(route="kept", target="kept", release="r", version="v"),
            ),
        )
        hashed = ServedEmbedder(embedder=HashEmbedder(), target=Target(provider="", model="hash"))
        books = await opened.enter_async_context(library(directory))
        base = replace(
            plain,
            models={**plain.models, "kept": kept},
            embedders={"hash": hashed},
            indexes=books,
            metrics=records,
            keys=keys,
            files=files,
            batches=BatchQueue(files, max_lines=20),
            deliveries=DeliveryQueue(database),
            responses=StoredResponses(database, retention_s=None, max_bytes=1 << 20),
            traces=traces,
            detail_sinks=(traces,),
            extra={admin.PREFIX: plane},
        )
        transport = httpx.ASGITransport(app=_application(base))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            made = World(database, http, books, shelf)
            await database.write(lambda c: _house(c, made))
            for team in TEAMS:
                await _resources(made, team)
            await traces.flush()
            yield made


def _application(services: Services) -> Any:
    return build(services)


def _echo(request: Any) -> Any:
    said = request.messages[-1].text if isinstance(request, ChatRequest) else "x"
    return reply(request, [f"you said {said}"])


async def _house(connection: AsyncConnection, made: World) -> None:
    now_s = int(time.time())
    for org in sorted(set(TEAMS.values())):
        await identity.add_org(connection, org, now_s=now_s)
    for team, org in TEAMS.items():
        own = made.made.setdefault(team, {})
        await identity.add_team(connection, team, org=org, now_s=now_s)
        for role in RoleName:
            new = NewKey(name=secret(team), org=org, team=team, role=role)
            key = await identity.make_key(connection, new, now_s=now_s)
            made.tokens[team, role] = key.token
            if role is RoleName.MEMBER:
                own["key"] = key.key.id
        own["user"] = f"person-of-{team}"
        await identity.add_user(connection, own["user"], team=team, now_s=now_s)
        person = await people.change_person(
            connection, own["user"], Change(name=secret(team)), now_s=now_s
        )
        session = await sessions.make_session(connection, person, lasts_s=3600, now_s=now_s)
        own["session"] = session.session.id
        limit = await limits.set_limit(
            connection,
            scope="key",
            subject=own["key"],
            unit=Unit.REQUESTS,
            window="day",
            amount=1_000_000,
            zone="",
            now_s=now_s,
        )
        own["limit"] = str(limit.id)
        await set_policy(connection, Policy("team", team, None, 30))
        spent = {"org": org, "team": team, "user": own["user"], "key": own["key"]}
        await connection.execute(
            insert(transactions).values(
                id=f"t-{team}", kind="request", at_s=now_s, model=secret(team), **spent
            )
        )


async def _resources(made: World, team: str) -> None:
    own, text = made.made[team], secret(team)

    async def ask(method: str, path: str, **options: Any) -> httpx.Response:
        answer = await made.ask(team, RoleName.MEMBER, method, path, **options)
        assert answer.status_code == 200, (path, answer.text)
        return answer

    messages = [{"role": "user", "content": text}]
    chat = await ask("POST", "/v1/chat/completions", json={"model": "m", "messages": messages})
    own["request"] = chat.headers["x-request-id"]
    response = await ask("POST", "/v1/responses", json={"model": "m", "input": text})
    own["response"] = response.json()["id"]
    own["file"] = await _upload(ask, text.encode(), "user_data")
    line = {
        "custom_id": text,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": messages},
    }
    own["batch_file"] = await _upload(ask, json.dumps(line).encode(), "batch")
    body = {
        "input_file_id": own["batch_file"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    own["index"] = f"index-of-{team}"
    for path, said in (
        ("/v1/indexes", {"name": own["index"]}),
        (
            f"/v1/indexes/{own['index']}/documents",
            {"documents": [{"id": own["index"], "text": text, "readers": [f"team:{team}"]}]},
        ),
    ):
        answer = await made.ask(team, RoleName.TEAM_ADMIN, "POST", path, json=said)
        assert answer.status_code == 200, answer.text
    own["batch"] = (await ask("POST", "/v1/batches", json=body)).json()["id"]


async def _upload(ask: Any, data: bytes, purpose: str) -> str:
    answer = await ask(
        "POST", "/v1/files", data={"purpose": purpose}, files={"file": ("f.jsonl", data)}
    )
    id: str = answer.json()["id"]
    return id


def _of_its_own(table: Table) -> ColumnElement[bool]:
    """That a row's team and organization belong together: an entry of the audit log may name a
    team that somebody asked for in vain, in their own organization."""
    if "org" not in table.c:
        return true()
    return or_(*(and_(table.c.team == team, table.c.org == org) for team, org in TEAMS.items()))


async def _rows_of_victims(connection: AsyncConnection) -> dict[str, Any]:
    await asyncio.sleep(0)
    found: dict[str, Any] = {}
    for table in metadata.sorted_tables:
        if "team" in table.c:
            where = and_(table.c.team.in_(VICTIMS), _of_its_own(table))
        elif "subject" in table.c:  # of limits and of policies; a key's tells no team
            subjects = [table.c.subject.contains(team) for team in VICTIMS]
            where = or_(*subjects, table.c.scope == "key")
        else:
            continue
        rows = await connection.execute(select(table).where(where))
        found[table.name] = sorted(str(tuple(row)) for row in rows)
    return found
