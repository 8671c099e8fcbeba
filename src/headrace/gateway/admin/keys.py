"""Service keys of the control plane: listed, made, rotated, revoked."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.gateway.admin.call import Call, reach_key, reach_team
from headrace.gateway.data import check_scopes
from headrace.store import identity
from headrace.store.identity import Key, NewKey, RoleName


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    team: str
    name: str = ""
    user: str | None = None
    role: RoleName = RoleName.MEMBER
    models: list[str] = []
    routes: list[str] = []
    features: list[str] = []
    data_class: str = ""
    expires_s: int | None = None
    unserved: bool = False
    """Whether `models` may have names that nothing is served by now."""


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    overlap_s: int = 86_400


async def list_keys(call: Call) -> Any:
    """GET keys: those within reach, and the caller's own."""
    found = await call.database.read(lambda c: identity.list_keys(c, org=call.org, team=call.team))
    mine = [key for key in found if call.reaches(key.org, key.team) or key.id == call.caller.key_id]
    return {"data": [shown(key) for key in mine]}


async def make_key(call: Call) -> Any:
    """POST keys; the token is in the answer, once."""
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(KeyBody)
    call.need(body.role)
    check_scopes(body.routes)
    if not body.unserved:
        call.check_served(body.models)

    async def work(connection: AsyncConnection) -> identity.MadeKey:
        org = await reach_team(call, connection, body.team)
        new = NewKey(
            name=body.name,
            org=org,
            team=body.team,
            user=body.user,
            role=body.role,
            models=body.models,
            routes=body.routes,
            features=body.features,
            data_class=body.data_class,
            expires_s=body.expires_s,
        )
        made = await identity.make_key(connection, new, now_s=call.now_s)
        detail = msgspec.to_builtins(body)
        await call.audit(
            connection, "key.make", made.key.id, org=org, team=body.team, detail=detail
        )
        return made

    made = await call.database.write(work)
    return {**shown(made.key), "token": made.token}


async def rotate_key(call: Call) -> Any:
    """POST keys/{id}/rotate."""
    body = call.body(RotateBody)

    async def work(connection: AsyncConnection) -> identity.MadeKey:
        key = await reach_key(call, connection)
        made = await identity.rotate_key(
            connection, key.id, overlap_s=body.overlap_s, now_s=call.now_s
        )
        detail = {"overlap_s": body.overlap_s}
        await call.audit(
            connection, "key.rotate", key.id, org=key.org, team=key.team, detail=detail
        )
        return made

    made = await call.database.write(work)
    return {**shown(made.key), "token": made.token}


async def revoke_key(call: Call) -> Any:
    """DELETE keys/{id}."""

    async def work(connection: AsyncConnection) -> str:
        key = await reach_key(call, connection)
        await identity.revoke_key(connection, key.id, now_s=call.now_s)
        await call.audit(connection, "key.revoke", key.id, org=key.org, team=key.team)
        return key.id

    return {"id": await call.database.write(work), "revoked": True}


def shown(key: Key) -> dict[str, Any]:
    """A key as answers have it."""
    row: dict[str, Any] = msgspec.to_builtins(key)
    return {
        name: sorted(value) if isinstance(value, list) else value for name, value in row.items()
    }
