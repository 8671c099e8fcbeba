"""Who is logged in, and who changed what: sessions and the audit log on the control plane."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound
from headrace.gateway.admin.call import Call, outranks
from headrace.store import sessions
from headrace.store.audit import MOST, Wanted, entries
from headrace.store.identity import RoleName
from headrace.store.sessions import Session


async def list_sessions(call: Call) -> Any:
    """GET sessions: those within reach, and the caller's own."""
    found = await call.database.read(
        lambda c: sessions.list_sessions(c, org=call.org, team=call.team, now_s=call.now_s)
    )
    return {"data": [_shown(session) for session in found if _reaches(call, session)]}


async def end_session(call: Call) -> Any:
    """DELETE sessions/{id}."""
    id = str(call.request.path_params["id"])

    async def work(connection: AsyncConnection) -> None:
        session = await sessions.get_session(connection, id)
        if not _reaches(call, session):
            raise NotFound(f"there is no session {id[:80]!r}")
        await sessions.end_session(connection, id, now_s=call.now_s)
        person = session.person
        await call.audit(
            connection,
            "session.end",
            id,
            org=person.org,
            team=person.team,
            detail={"user": person.id},
        )

    await call.database.write(work)
    return {"id": id, "ended": True}


async def read_audit(call: Call) -> Any:
    """GET audit: ?actor=&action=&subject=&since_s=&until_s=&before=&limit=, the newest first."""
    call.need(RoleName.TEAM_ADMIN)
    query = call.request.query_params
    wanted = Wanted(
        org=call.org,
        team=call.team,
        actor=query.get("actor", ""),
        action=query.get("action", ""),
        subject=query.get("subject", ""),
        since_s=call.whole("since_s", 0),
        until_s=call.whole("until_s", 1 << 52),
        before=call.whole("before", 0),
        count=call.whole("limit", 100, most=MOST),
    )
    found = await call.database.read(lambda c: entries(c, wanted))
    return {
        "data": [entry._asdict() for entry in found],
        "more": len(found) == wanted.count > 0,
    }


def _reaches(call: Call, session: Session) -> bool:
    person = session.person
    if call.caller.person and person.id == call.caller.user:
        return True
    return outranks(call, person.role) and call.reaches(person.org, person.team)


def _shown(session: Session) -> dict[str, Any]:
    person = session.person
    return {
        "id": session.id,
        "user": person.id,
        "org": person.org,
        "team": person.team,
        "created_s": session.created_s,
        "expires_s": session.expires_s,
    }
