"""Limits, spend and the ledger's proof on the control plane."""

from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound, PermissionDenied
from headrace.gateway import focus
from headrace.gateway.admin.call import Call
from headrace.store import identity, limits
from headrace.store.forecast import forecasts
from headrace.store.identity import RoleName
from headrace.store.limits import Limit, Unit
from headrace.store.spend import spend, standings
from headrace.store.verify import verify


class LimitBody(msgspec.Struct, forbid_unknown_fields=True):
    scope: str
    subject: str
    amount: int
    unit: Unit = Unit.MONEY
    window: str = "month"
    zone: str = ""


async def list_limits(call: Call) -> Any:
    """GET limits: those that bind the caller, or that it governs."""

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


async def set_limit(call: Call) -> Any:
    """POST limits: set from above only."""
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
                f"{call.who} may not limit {body.scope[:20]} {body.subject[:80]!r}, or there is "
                "none"
            )
        made = await limits.set_limit(
            connection,
            scope=body.scope,
            subject=body.subject,
            unit=body.unit,
            window=body.window,
            amount=body.amount,
            zone=body.zone,
            now_s=call.now_s,
        )
        await _audit_limit(call, connection, "limit.set", made)
        return made

    return msgspec.to_builtins(await call.database.write(work))


async def remove_limit(call: Call) -> Any:
    """DELETE limits/{id}."""
    id = int(call.request.path_params["id"])

    async def work(connection: AsyncConnection) -> None:
        found = [limit for limit in await limits.all_limits(connection) if limit.id == id]
        if not found or not await _governs(call, connection, found[0]):
            raise NotFound(f"there is no limit {id}")
        await limits.remove_limit(connection, id)
        await _audit_limit(call, connection, "limit.remove", found[0])

    await call.database.write(work)
    return {"id": id, "removed": True}


async def show_spend(call: Call) -> Any:
    """GET spend: ?by=team,model&since_s=&until_s=; a member sees its own."""
    query = call.request.query_params
    by = query.get("by", "team,model").split(",")
    since_s, until_s = call.whole("since_s", 0), call.whole("until_s", 1 << 52)
    member = call.caller.role not in (RoleName.ADMIN, RoleName.ORG_ADMIN, RoleName.TEAM_ADMIN)
    person = call.caller.person
    lines = await call.database.read(
        lambda c: spend(
            c,
            by=by,
            since_s=since_s,
            until_s=until_s,
            org=call.org,
            team=call.team,
            key=call.caller.key_id if member and not person else None,
            user=call.caller.user if member and person else None,
        )
    )
    return {
        "data": [
            {**dict(zip(by, line.group, strict=True)), **dict(list(line._asdict().items())[1:])}
            for line in lines
        ]
    }


async def focus_spend(call: Call) -> Any:
    """GET spend/focus: the same as rows in FOCUS columns; an organization's or team's admin sees
    its own."""
    call.need(RoleName.TEAM_ADMIN)
    since_s, until_s = call.whole("since_s", 0), call.whole("until_s", 1 << 52)
    found = await call.database.read(
        lambda c: focus.charges(c, since_s=since_s, until_s=until_s, org=call.org, team=call.team)
    )
    return {"data": focus.rows(found)}


async def forecast_limits(call: Call) -> Any:
    """GET forecast: of the limits that bind the caller, or that it governs."""

    async def work(connection: AsyncConnection) -> list[Any]:
        binding = limits.subjects(call.caller)
        found: list[Any] = []
        for item in await forecasts(connection, now_s=call.now_s):
            limit = item.limit
            if (limit.scope, limit.subject) in binding or await _governs(call, connection, limit):
                found.append({**item._asdict(), "limit": msgspec.to_builtins(limit)})
        return found

    return {"data": await call.database.read(work)}


async def verify_ledger(call: Call) -> Any:
    """GET ledger/verify: an admin's."""
    call.need(RoleName.ADMIN)
    return (await call.database.read(verify, patience_s=None))._asdict()


async def _governs(call: Call, connection: AsyncConnection, limit: Limit) -> bool:
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


async def _audit_limit(call: Call, connection: AsyncConnection, action: str, limit: Limit) -> None:
    whose = await limits.owner(connection, limit)
    subject = f"{limit.scope}:{limit.subject}"
    detail = msgspec.to_builtins(limit)
    await call.audit(connection, action, subject, org=whose.org, team=whose.team, detail=detail)
