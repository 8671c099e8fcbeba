"""The control plane, /v1/admin over Starlette: a key's role says what it may see and change.

    GET  /v1/admin/whoami
    GET, POST  /v1/admin/orgs          admin
    GET, POST  /v1/admin/teams         admin, or an organization's own
    GET, POST  /v1/admin/users         ... or a team's own
    GET, POST  /v1/admin/keys          the token is in the answer to POST, once
    POST       /v1/admin/keys/{id}/rotate    {"overlap_s": 86400}
    DELETE     /v1/admin/keys/{id}
    GET, POST  /v1/admin/limits        a caller sees those that bind it; only above it are they set
    DELETE     /v1/admin/limits/{id}
    GET        /v1/admin/spend         ?by=team,model&since_s=&until_s=; a member sees its own key's
    GET        /v1/admin/ledger/verify admin

Invariant: what is another's answers as what does not exist: a key learns no ids beyond its reach.
Nobody makes a key of a higher role than its own.
"""

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import (
    HeadraceError,
    InvalidParameter,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
)
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import Credentials, Keys
from headrace.store import identity, limits
from headrace.store.database import Database
from headrace.store.identity import Key, NewKey, RoleName
from headrace.store.limits import Limit, Unit
from headrace.store.spend import spend, standings
from headrace.store.verify import verify
from headrace.types import Caller
from headrace.wire.openai_errors import encode_error

PREFIX = "/v1/admin/"
_MAX_BODY_BYTES = 64 << 10
_RANK = {role.value: at for at, role in enumerate(reversed(RoleName))}
T = TypeVar("T")
Handler: TypeAlias = Callable[["_Call"], Awaitable[Any]]


class OrgBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class TeamBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    org: str = identity.DEFAULT


class UserBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    team: str = identity.DEFAULT


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    team: str
    name: str = ""
    user: str | None = None
    role: RoleName = RoleName.MEMBER
    models: list[str] = []
    routes: list[str] = []
    features: list[str] = []
    expires_s: int | None = None


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    overlap_s: int = 86_400


class LimitBody(msgspec.Struct, forbid_unknown_fields=True):
    scope: str
    subject: str
    amount: int
    unit: Unit = Unit.MONEY
    window: str = "month"
    zone: str = ""


def build(database: Database, keys: Keys | None) -> ASGIApp:
    """The application for everything below `PREFIX`; keys None = whoever reaches it is an admin."""

    def route(path: str, method: str, handler: Handler) -> tuple[str, str, Handler]:
        return PREFIX + path, method, handler

    table = (
        route("whoami", "GET", _whoami),
        route("orgs", "GET", _orgs),
        route("orgs", "POST", _add_org),
        route("teams", "GET", _teams),
        route("teams", "POST", _add_team),
        route("users", "GET", _users),
        route("users", "POST", _add_user),
        route("keys", "GET", _keys),
        route("keys", "POST", _make_key),
        route("keys/{id}/rotate", "POST", _rotate),
        route("keys/{id}", "DELETE", _revoke),
        route("limits", "GET", _limits),
        route("limits", "POST", _set_limit),
        route("limits/{id:int}", "DELETE", _remove_limit),
        route("spend", "GET", _spend),
        route("ledger/verify", "GET", _verify),
    )
    paths: dict[str, dict[str, Handler]] = {}
    for path, method, handler in table:
        paths.setdefault(path, {})[method] = handler

    def endpoint(methods: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await _answer(database, keys, request, methods)

        return answer

    every = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]
    routes = [Route(path, endpoint(found), methods=every) for path, found in paths.items()]
    routes.append(Route(PREFIX + "{rest:path}", endpoint({}), methods=every))
    return Starlette(routes=routes)


class _Call:
    """One request on its way: who, with what, and the database."""

    def __init__(self, database: Database, caller: Caller, request: Request, body: bytes) -> None:
        self.database = database
        self.caller = caller
        self.request = request
        self._body = body
        self.now_s = int(time.time())

    def body(self, kind: type[T]) -> T:
        """The body as a structure. Raises: InvalidParameter."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"the body: {error}") from None

    def need(self, role: RoleName) -> None:
        """Raises: PermissionDenied for a key of a lower role."""
        if _RANK.get(self.caller.role, -1) < _RANK[role.value]:
            raise PermissionDenied(
                f"the key {self.caller.key_id} has the role {self.caller.role or 'none'}; this "
                f"needs {role.value}"
            )

    def reaches(self, org: str, team: str) -> bool:
        """Whether a team is the caller's to administer."""
        match self.caller.role:
            case RoleName.ADMIN:
                return True
            case RoleName.ORG_ADMIN:
                return org == self.caller.org
            case RoleName.TEAM_ADMIN:
                return team == self.caller.team
            case _:
                return False

    @property
    def org(self) -> str | None:
        """What lists are confined to; None = nothing."""
        return None if self.caller.role == RoleName.ADMIN else self.caller.org

    @property
    def team(self) -> str | None:
        wide = (RoleName.ADMIN, RoleName.ORG_ADMIN)
        return None if self.caller.role in wide else self.caller.team


async def _answer(
    database: Database, keys: Keys | None, request: Request, methods: dict[str, Handler]
) -> Response:
    request_id = uuid.uuid4().hex
    headers = {"x-request-id": request_id}
    try:
        caller = Caller(role=RoleName.ADMIN.value)
        if keys is not None:
            caller = await keys.identify(
                Credentials(
                    authorization=request.headers.get("authorization"),
                    api_key=request.headers.get("x-api-key"),
                    route=request.url.path,
                )
            )
        if not methods:
            raise NotFound(f"there is no {request.url.path[:80]!r} here")
        handler = methods.get(request.method)
        if handler is None:
            headers["allow"] = ", ".join(methods)
            raise MethodNotAllowed(f"this takes {headers['allow']}, not {request.method[:16]}")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise InvalidParameter(f"the body is larger than {_MAX_BODY_BYTES} bytes")
        answer = await handler(_Call(database, caller, request, body))
    except HeadraceError as error:
        body = encode_error(error, request_id=request_id)
        return Response(body, error.status, headers, media_type="application/json")
    return Response(msgspec.json.encode(answer), 200, headers, media_type="application/json")


async def _whoami(call: _Call) -> Any:
    caller = call.caller
    return {
        "key": caller.key_id,
        "org": caller.org,
        "team": caller.team,
        "user": caller.user,
        "role": caller.role,
    }


async def _orgs(call: _Call) -> Any:
    found = await call.database.read(identity.org_ids)
    return {"data": [{"id": id} for id in found if call.org in (None, id)]}


async def _add_org(call: _Call) -> Any:
    call.need(RoleName.ADMIN)
    body = call.body(OrgBody)
    await call.database.write(lambda c: identity.add_org(c, body.id, now_s=call.now_s))
    return {"id": body.id}


async def _teams(call: _Call) -> Any:
    rows = await call.database.read(lambda c: identity.team_rows(c, org=call.org))
    return {
        "data": [{"id": r.id, "org": r.org} for r in rows if call.team in (None, r.id)],
    }


async def _add_team(call: _Call) -> Any:
    call.need(RoleName.ORG_ADMIN)
    body = call.body(TeamBody)
    if call.org not in (None, body.org):
        raise NotFound(f"there is no organization {body.org[:80]!r}", param="org")
    await call.database.write(
        lambda c: identity.add_team(c, body.id, org=body.org, now_s=call.now_s)
    )
    return {"id": body.id, "org": body.org}


async def _users(call: _Call) -> Any:
    rows = await call.database.read(lambda c: identity.user_rows(c, team=call.team))
    return {
        "data": [
            {"id": r.id, "org": r.org, "team": r.team} for r in rows if call.org in (None, r.org)
        ]
    }


async def _add_user(call: _Call) -> Any:
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(UserBody)

    async def work(connection: AsyncConnection) -> None:
        await _reach_team(call, connection, body.team)
        await identity.add_user(connection, body.id, team=body.team, now_s=call.now_s)

    await call.database.write(work)
    return {"id": body.id, "team": body.team}


async def _keys(call: _Call) -> Any:
    found = await call.database.read(lambda c: identity.list_keys(c, org=call.org, team=call.team))
    mine = [key for key in found if call.reaches(key.org, key.team) or key.id == call.caller.key_id]
    return {"data": [_shown(key) for key in mine]}


async def _make_key(call: _Call) -> Any:
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(KeyBody)
    call.need(body.role)

    async def work(connection: AsyncConnection) -> identity.MadeKey:
        org = await _reach_team(call, connection, body.team)
        new = NewKey(
            name=body.name,
            org=org,
            team=body.team,
            user=body.user,
            role=body.role,
            models=body.models,
            routes=body.routes,
            features=body.features,
            expires_s=body.expires_s,
        )
        return await identity.make_key(connection, new, now_s=call.now_s)

    made = await call.database.write(work)
    return {**_shown(made.key), "token": made.token}


async def _rotate(call: _Call) -> Any:
    body = call.body(RotateBody)

    async def work(connection: AsyncConnection) -> identity.MadeKey:
        key = await _reach_key(call, connection)
        return await identity.rotate_key(
            connection, key.id, overlap_s=body.overlap_s, now_s=call.now_s
        )

    made = await call.database.write(work)
    return {**_shown(made.key), "token": made.token}


async def _revoke(call: _Call) -> Any:
    async def work(connection: AsyncConnection) -> str:
        key = await _reach_key(call, connection)
        await identity.revoke_key(connection, key.id, now_s=call.now_s)
        return key.id

    return {"id": await call.database.write(work), "revoked": True}


async def _limits(call: _Call) -> Any:
    async def work(connection: AsyncConnection) -> list[Any]:
        binding = limits.subjects(call.caller)
        found: list[Any] = []
        for standing in await standings(connection, now_s=call.now_s):
            limit = standing.limit
            if (limit.scope, limit.subject) in binding or await _governs(call, connection, limit):
                window = {"starts_s": standing.starts_s, "ends_s": standing.ends_s}
                used = {"spent": standing.spent, "leased": standing.leased, "lost": standing.lost}
                found.append({**msgspec.to_builtins(limit), **window, **used})
        return found

    return {"data": await call.database.read(work)}


async def _set_limit(call: _Call) -> Any:
    body = call.body(LimitBody)

    async def work(connection: AsyncConnection) -> Limit:
        wanted = Limit(
            id=0,
            scope=body.scope,
            subject=body.subject,
            unit=body.unit,
            window=body.window,
            zone=body.zone,
            amount=body.amount,
        )
        if not await _governs(call, connection, wanted):
            raise PermissionDenied(
                f"the key {call.caller.key_id} may not limit {body.scope[:20]} "
                f"{body.subject[:80]!r}, or there is none"
            )
        return await limits.set_limit(
            connection,
            scope=body.scope,
            subject=body.subject,
            unit=body.unit,
            window=body.window,
            amount=body.amount,
            zone=body.zone,
            now_s=call.now_s,
        )

    return msgspec.to_builtins(await call.database.write(work))


async def _remove_limit(call: _Call) -> Any:
    id = int(call.request.path_params["id"])

    async def work(connection: AsyncConnection) -> None:
        found = [limit for limit in await limits.all_limits(connection) if limit.id == id]
        if not found or not await _governs(call, connection, found[0]):
            raise NotFound(f"there is no limit {id}")
        await limits.remove_limit(connection, id)

    await call.database.write(work)
    return {"id": id, "removed": True}


async def _spend(call: _Call) -> Any:
    query = call.request.query_params
    by = query.get("by", "team,model").split(",")
    since_s, until_s = _whole(query.get("since_s"), 0), _whole(query.get("until_s"), 1 << 52)
    member = call.caller.role not in (RoleName.ADMIN, RoleName.ORG_ADMIN, RoleName.TEAM_ADMIN)
    lines = await call.database.read(
        lambda c: spend(
            c,
            by=by,
            since_s=since_s,
            until_s=until_s,
            org=call.org,
            team=call.team,
            key=call.caller.key_id if member else None,
        )
    )
    return {
        "data": [
            {**dict(zip(by, line.group, strict=True)), **dict(list(line._asdict().items())[1:])}
            for line in lines
        ]
    }


async def _verify(call: _Call) -> Any:
    call.need(RoleName.ADMIN)
    return (await call.database.read(verify))._asdict()


async def _governs(call: _Call, connection: AsyncConnection, limit: Limit) -> bool:
    """Whether a caller stands above what a limit binds: nobody sets the limits of its own level."""
    role, caller = call.caller.role, call.caller
    if role == RoleName.ADMIN:
        return True
    if role not in (RoleName.ORG_ADMIN, RoleName.TEAM_ADMIN):
        return False
    try:
        match limit.scope:
            case "team":
                org = await identity.org_of(connection, limit.subject)
                return role == RoleName.ORG_ADMIN and org == caller.org
            case "key":
                key = await identity.get_key(connection, limit.subject)
                return key.id != caller.key_id and call.reaches(key.org, key.team)
            case "user":
                rows = await identity.user_rows(connection)
                return any(
                    row.id == limit.subject and call.reaches(row.org, row.team) for row in rows
                )
            case "feature":
                return role == RoleName.ORG_ADMIN and limit.subject.startswith(f"{caller.org}/")
            case _:
                return False
    except NotFound:
        return False


async def _reach_team(call: _Call, connection: AsyncConnection, team: str) -> str:
    """A team's organization. Raises: NotFound also where the team is another's."""
    org = await identity.org_of(connection, team)
    if not call.reaches(org, team):
        raise NotFound(f"there is no team {team[:80]!r}", param="team")
    return org


async def _reach_key(call: _Call, connection: AsyncConnection) -> Key:
    """The key that the path names. Raises: NotFound also where it is another's, or higher."""
    id = str(call.request.path_params["id"])
    key = await identity.get_key(connection, id)
    low = _RANK[key.role.value] <= _RANK.get(call.caller.role, -1)
    if not (low and call.reaches(key.org, key.team)):
        raise NotFound(f"there is no key {id[:80]!r}")
    return key


def _shown(key: Key) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(key)
    return {
        name: sorted(value) if isinstance(value, list) else value for name, value in row.items()
    }


def _whole(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or len(text) > 15:
        raise InvalidParameter(f"{text[:40]!r} is no Unix time")
    return int(text)
