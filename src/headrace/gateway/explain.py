"""GET /v1/requests/{id}/explain: what happened to a request, for its own team and for admins.

Another team's request answers as one that there never was.
"""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound
from headrace.gateway.explanation import explanation
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Services
from headrace.store import traces as store
from headrace.store.booked import Booked, booked
from headrace.store.identity import RoleName
from headrace.store.traces import Content, TraceRow
from headrace.types import Caller


async def explain(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/requests/{id}/explain."""
    id = exchange.params["id"]
    traces = services.traces
    if traces is None:
        raise NotFound(
            "this service keeps no traces; it needs a store (store.url) and traces.enabled"
        )
    await traces.flush()

    async def work(connection: AsyncConnection) -> tuple[TraceRow | None, Content | None]:
        return await store.get(connection, id), await store.content(connection, id)

    row, content = await traces.database.read(work)
    if row is None or not may_read(caller, row.org, row.team):
        raise NotFound(
            f"there is no trace of the request {id[:80]!r}: not one of this team's, older than "
            "its traces are kept, or sampled out"
        )
    ledger: Booked = {}
    if services.ledger is not None:
        ledger = await traces.policies.read(lambda connection: booked(connection, id))
    await exchange.answer(200, msgspec.json.encode(explanation(row, content, ledger)))


def may_read(caller: Caller, org: str, team: str) -> bool:
    """Whether a request of that team is the caller's to see."""
    match caller.role:
        case RoleName.ADMIN:
            return True
        case RoleName.ORG_ADMIN:
            return org == caller.org
        case _:
            return (org, team) == (caller.org, caller.team)
