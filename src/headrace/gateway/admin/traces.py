"""Traces on the control plane: listed, deleted for good, and whose are kept how long.

A caller sees and deletes those of the teams it administers; a member sees its own team's.
"""

from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound, PermissionDenied
from headrace.gateway.admin.call import Call, reach_team
from headrace.gateway.traces import Traces
from headrace.store import traces as store
from headrace.store.database import bump
from headrace.store.identity import RoleName, org_ids
from headrace.store.traces import Policy, TraceRow, Which

TEXTS = ("id", "org", "team", "key", "end_user", "model", "route", "finish", "trace_id")
_FILTERS = (*TEXTS, "status")
_TIMES = ("since_s", "until_s")
_MOST = 1000


class PolicyBody(msgspec.Struct, forbid_unknown_fields=True):
    scope: str
    subject: str
    content_ppm: int | None = None
    retention_days: int | None = None


async def list_traces(call: Call) -> Any:
    """GET traces: newest first; `before_s` and `before_id` of the last for the next page."""
    traces = _need(call)
    which = within(call, which_of(call, more=("failed", "limit", "before_s", "before_id")))
    limit = max(1, call.whole("limit", 50, most=_MOST))
    query = call.request.query_params
    which = replace(which, failed=bool(call.whole("failed", 0, most=1)))
    before: tuple[int, str] | None = None
    if "before_s" in query:
        before = call.whole("before_s", 0), query.get("before_id", "")
    await traces.flush()
    rows = await traces.database.read(lambda c: store.find(c, which, limit=limit, before=before))
    return {"data": [line(row) for row in rows], "has_more": len(rows) == limit}


async def delete_traces(call: Call) -> Any:
    """DELETE traces: all that match, from the tables and from the files."""
    call.need(RoleName.TEAM_ADMIN)
    traces = _need(call)
    asked = which_of(call)
    if asked.empty:
        raise InvalidParameter(f"say which: {', '.join((*_FILTERS, *_TIMES))}")
    which = within(call, asked)
    await traces.flush()
    if which.id is not None:
        rows = await traces.database.read(lambda c: store.find(c, which, limit=1))
        if not rows:
            raise NotFound(f"there is no trace of the request {which.id[:80]!r}")
        which = replace(which, org=rows[0].org, team=rows[0].team)
    removed = 0
    while found := await traces.database.write(lambda c: store.remove(c, which)):
        removed += found
    scrubbed = await traces.database.scrub(*store.TABLES)

    async def work(connection: AsyncConnection) -> None:
        # Of an end user only that there was one: what is deleted must not live on here.
        shown = {
            name: "…" if name == "end_user" else value
            for name in (*_FILTERS, *_TIMES)
            if (value := getattr(which, name)) is not None
        }
        await call.audit(
            connection,
            "traces.delete",
            which.team or which.org or "all",
            org=which.org or "",
            team=which.team or "",
            detail={**shown, "removed": removed},
        )

    await call.database.write(work)
    return {"removed": removed, "scrubbed": scrubbed}


async def list_policies(call: Call) -> Any:
    """GET traces/policies: of the organizations and teams within reach."""
    call.need(RoleName.TEAM_ADMIN)
    found = await call.database.read(store.all_policies)
    mine = [policy for policy in found if await _governs(call, policy)]
    return {"data": [policy._asdict() for policy in mine]}


async def set_policy(call: Call) -> Any:
    """POST traces/policies: what an organization or a team wants other than the settings."""
    call.need(RoleName.TEAM_ADMIN)
    body = call.body(PolicyBody)
    policy = Policy(body.scope, body.subject, body.content_ppm, body.retention_days)

    async def work(connection: AsyncConnection) -> None:
        org, team = policy.subject, ""
        if policy.scope == "team":
            org, team = await reach_team(call, connection, policy.subject), policy.subject
        else:
            call.need(RoleName.ORG_ADMIN)
            if org not in await org_ids(connection) or call.org not in (None, org):
                raise NotFound(f"there is no organization {org[:80]!r}", param="subject")
        await store.set_policy(connection, policy)
        await call.audit(
            connection,
            "traces.policy",
            f"{policy.scope}:{policy.subject}",
            org=org,
            team=team,
            detail=policy._asdict(),
        )
        await bump(connection)

    await call.database.write(work)
    return policy._asdict()


def line(row: TraceRow) -> dict[str, Any]:
    """A trace in a list."""
    found: dict[str, Any] = msgspec.to_builtins(row)
    del found["body"]
    return found


def _need(call: Call) -> Traces:
    if call.traces is None:
        raise NotFound("this service keeps no traces (traces.enabled = false)")
    return call.traces


def which_of(call: Call, *, more: tuple[str, ...] = ()) -> Which:
    """The filters of a query. Raises: InvalidParameter for one that there is not."""
    query = call.request.query_params
    known = (*_FILTERS, *_TIMES, *more)
    for name in query:
        if name not in known:
            raise InvalidParameter(f"{name[:40]!r} is no filter; there are {', '.join(known)}")
    return Which(
        id=query.get("id"),
        org=query.get("org"),
        team=query.get("team"),
        key=query.get("key"),
        end_user=query.get("end_user"),
        model=query.get("model"),
        route=query.get("route"),
        status=call.whole("status", 0, most=599) if "status" in query else None,
        finish=query.get("finish"),
        trace_id=query.get("trace_id"),
        since_s=call.whole("since_s", 0) if "since_s" in query else None,
        until_s=call.whole("until_s", 0) if "until_s" in query else None,
    )


def within(call: Call, which: Which) -> Which:
    """The same, confined to what the caller may see."""
    for name, own in (("org", call.org), ("team", call.team)):
        if own is None:
            continue
        if getattr(which, name) not in (None, own):
            raise PermissionDenied(f"{call.who} sees traces of its own {name} only")
        which = replace(which, org=own) if name == "org" else replace(which, team=own)
    return which


async def _governs(call: Call, policy: Policy) -> bool:
    if policy.scope == "org":
        return call.org in (None, policy.subject) and call.team is None
    if call.team is not None:
        return policy.subject == call.team
    if call.org is None:
        return True

    async def work(connection: AsyncConnection) -> bool:
        try:
            await reach_team(call, connection, policy.subject)
        except NotFound:
            return False
        return True

    return await call.database.read(work)
