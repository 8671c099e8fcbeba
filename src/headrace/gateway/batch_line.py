"""One line of a batch → its answer: the route of a live request, without a socket.

The same decoding, limits, ledger and records, at batch priority, under an id that is the line's
and its attempt's: a line that a killed process had begun is booked once, whoever runs it again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from headrace.errors import HeadraceError
from headrace.gateway.asgi import serve
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Services
from headrace.gateway.table import DataRoute
from headrace.types import Caller, Priority, Quote, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a line asks."""

    batch: str
    request_id: str
    endpoint: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class LineAnswer:
    """What came of it."""

    status: int
    body: bytes
    usage: Usage
    error: HeadraceError | None
    quotes: tuple[Quote, ...] = ()
    """Documents that it may quote."""


async def run_line(
    services: Services, job: Job, identify: Callable[[DataRoute], Awaitable[Caller]]
) -> LineAnswer:
    """Ask; whatever goes wrong is an answer. Cancelling it cancels the work."""
    sent = _Sent(job.body)
    scope = {
        "type": "http",
        "method": "POST",
        "path": job.endpoint,
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(job.body)).encode()),
        ],
    }
    exchange = Exchange(scope, sent.receive, sent.send, request_id=job.request_id)
    flights: list[Flight] = []

    def fly(route: str) -> Flight:
        flight = Flight(
            id=job.request_id,
            route=route,
            metrics=services.metrics,
            sinks=services.sinks,
            detail_sinks=services.detail_sinks,
            priority=Priority.BATCH,
            batch=job.batch,
        )
        flights.append(flight)
        return flight

    await serve(services, exchange, fly=fly, identify=identify)
    flight = flights[0] if flights else None
    return LineAnswer(
        status=sent.status,
        body=b"".join(sent.parts),
        usage=Usage() if flight is None else flight.usage,
        error=None if flight is None else flight.error,
        quotes=() if flight is None else tuple(dict.fromkeys(flight.trail.quotes)),
    )


class _Sent:
    """A client that sends one body, waits, and keeps what it gets."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 0
        self.parts: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        if self._body is None:
            await asyncio.Event().wait()  # it never leaves; whoever stops waiting cancels
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.parts.append(message.get("body", b""))
