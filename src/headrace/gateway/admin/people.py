"""Organizations, teams and users of the control plane."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound
from headrace.gateway.admin.call import Call, reach_team
from headrace.store import identity
from headrace.store.identity import RoleName


class OrgBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class TeamBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    org: str = identity.DEFAULT


class UserBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    team: str = identity.DEFAULT


async def whoami(call: Call) -> Any:
    """GET whoami."""
    caller = call.caller
    return {
        "key": caller.key_id,
        "org": caller.org,
        "team": caller.team,
        "user": caller.user,
        "role": caller.role,
    }


async def list_orgs(call: Call) -> Any:
    """GET orgs."""
    found = await call.database.read(identity.org_ids)
    return {"data": [{"id": id} for id in found if call.org in (None, id)]}


async def add_org(call: Call) -> Any:
    """POST orgs: an admin's."""
    call.need(RoleName.ADMIN)
    body = call.body(OrgBody)
    await call.database.write(lambda c: identity.add_org(c, body.id, now_s=call.now_s))
    return {"id": body.id}


async def list_teams(call: Call) -> Any:
    """GET teams."""
    rows = await call.database.read(lambda c: identity.team_rows(c, org=call.org))
    return {
        "data": [{"id": r.id, "org": r.org} for r in rows if call.team in (None, r.id)],
    }


async def add_team(call: Call) -> Any:
    """POST teams: an admin's, or an organization's own."""
    call.need(RoleName.ORG_ADMIN)
    body = call.body(TeamBody)
    if call.org not in (None, body.org):
        raise NotFound(f"there is no organization {body.org[:80]!r}", param="org")
    await call.database.write(
        lambda c: identity.add_team(c, body.id, org=body.org, now_s=call.now_s)
    )
    return {"id": body.id, "org": body.org}


async def list_users(call: Call) -> Any:
    """GET users."""
    rows = await call.database.read(lambda c: identity.user_rows(c, team=call.team))
    return {
        "data": [
            {"id": r.id, "org": r.org, "team": r.team} for r in rows if call.org in (None, r.org)
        ]
    }


async def add_user(call: Call) -> Any:
    """POST users: ... or a team's own."""
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(UserBody)

    async def work(connection: AsyncConnection) -> None:
        await reach_team(call, connection, body.team)
        await identity.add_user(connection, body.id, team=body.team, now_s=call.now_s)

    await call.database.write(work)
    return {"id": body.id, "team": body.team}
