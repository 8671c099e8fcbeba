"""Organizations, teams and users on the control plane: listed, made, changed."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound
from headrace.gateway.admin.call import Call, reach_person, reach_team
from headrace.store import identity
from headrace.store import people as store
from headrace.store.identity import RoleName
from headrace.store.people import Change, Person


class OrgBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class TeamBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    org: str = identity.DEFAULT


class UserBody(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    team: str = identity.DEFAULT
    role: RoleName = RoleName.MEMBER
    name: str = ""


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    role: RoleName | None = None
    team: str | None = None
    name: str | None = None
    disabled: bool | None = None


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

    async def work(connection: AsyncConnection) -> None:
        await identity.add_org(connection, body.id, now_s=call.now_s)
        await call.audit(connection, "org.add", body.id, org=body.id)

    await call.database.write(work)
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

    async def work(connection: AsyncConnection) -> None:
        await identity.add_team(connection, body.id, org=body.org, now_s=call.now_s)
        await call.audit(connection, "team.add", body.id, org=body.org, team=body.id)

    await call.database.write(work)
    return {"id": body.id, "org": body.org}


async def list_users(call: Call) -> Any:
    """GET users."""
    found = await call.database.read(lambda c: store.people(c, org=call.org, team=call.team))
    return {"data": [_shown(person) for person in found]}


async def add_user(call: Call) -> Any:
    """POST users: ... or a team's own; nobody gives a higher role than its own."""
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(UserBody)
    call.need(body.role)

    async def work(connection: AsyncConnection) -> Person:
        org = await reach_team(call, connection, body.team)
        await identity.add_user(connection, body.id, team=body.team, now_s=call.now_s)
        change = Change(role=body.role, name=body.name)
        person = await store.change_person(connection, body.id, change, now_s=call.now_s)
        await call.audit(
            connection,
            "user.add",
            body.id,
            org=org,
            team=body.team,
            detail={"role": body.role.value},
        )
        return person

    return _shown(await call.database.write(work))


async def change_user(call: Call) -> Any:
    """PATCH users/{id}: role, team, name, disabled; of users and to teams within reach."""
    call.need(RoleName.TEAM_ADMIN)
    id = str(call.request.path_params["id"])
    body = call.body(UserChange)
    if body.role is not None:
        call.need(body.role)
    given = {name: value for name, value in msgspec.to_builtins(body).items() if value is not None}
    if not given:
        raise InvalidParameter("the body changes nothing: give role, team, name or disabled")

    async def work(connection: AsyncConnection) -> Person:
        before = await reach_person(call, connection, id)
        if body.team is not None:
            await reach_team(call, connection, body.team)
        if body.disabled and call.caller.user == id:
            raise InvalidParameter(
                "nobody disables themselves; ask another administrator", param="disabled"
            )
        change = Change(role=body.role, team=body.team, name=body.name, disabled=body.disabled)
        after = await store.change_person(connection, id, change, now_s=call.now_s)
        was = {name: value for name, value in _shown(before).items() if name in given}
        await call.audit(
            connection,
            "user.change",
            id,
            org=before.org,
            team=before.team,
            detail={"from": was, "to": given},
        )
        return after

    return _shown(await call.database.write(work))


def _shown(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "org": person.org,
        "team": person.team,
        "role": person.role.value,
        "name": person.name,
        "account": person.account,
        "disabled": person.disabled_s is not None,
        "created_s": person.created_s,
    }
