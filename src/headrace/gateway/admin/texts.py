"""All text of somebody deleted at once, on the control plane."""

import contextlib
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound
from headrace.gateway.admin.call import Call
from headrace.gateway.admin.traces import which_of, within
from headrace.store import identity
from headrace.store.identity import RoleName

FILTERS = ("id", "org", "team", "key", "end_user", "since_s", "until_s")


async def delete_texts(call: Call) -> Any:
    """DELETE texts: traces, stored responses and kept answers; `files=1`: files and batches too."""
    call.need(RoleName.TEAM_ADMIN)
    if call.erasure is None:
        raise NotFound("this service keeps no texts")
    for name in call.request.query_params:
        if name not in (*FILTERS, "files"):
            known = ", ".join((*FILTERS, "files"))
            raise InvalidParameter(f"{name[:40]!r} is no filter; there are {known}")
    asked = which_of(call, more=("files",))
    if asked.empty:
        raise InvalidParameter(f"say whose: {', '.join(FILTERS)}")
    which = within(call, asked)
    erased = await call.erasure.erase(which, files=bool(call.whole("files", 0, most=1)))

    async def work(connection: AsyncConnection) -> None:
        # Of an end user only that there was one: what is deleted must not live on here.
        shown = {
            name: "…" if name == "end_user" else value
            for name in FILTERS
            if (value := getattr(which, name)) is not None
        }
        # A team's organization must find it in its log, whoever named only the team.
        org = which.org or ""
        if which.team and not org:
            with contextlib.suppress(NotFound):  # texts may outlive their team
                org = await identity.org_of(connection, which.team)
        await call.audit(
            connection,
            "texts.delete",
            which.team or org or "all",
            org=org,
            team=which.team or "",
            detail={**shown, **erased._asdict()},
        )

    await call.database.write(work)
    removed = erased.traces + erased.responses + erased.files + erased.batches
    return {"removed": removed, **erased._asdict()}
