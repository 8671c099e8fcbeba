"""Where a request's trace is begun and told what happens: its place in a trace, what was asked for,
what was let through; and the header that explains it at once.

`x-headrace-explain: 1` on a request that is to be answered by a model puts `x-headrace-parameters`
into the answer's head: every effective parameter with its value and its origin, as JSON.
"""

import json

from headrace.errors import InvalidParameter
from headrace.gateway.detail import Detail
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Served, Services
from headrace.observe.context import join
from headrace.observe.parameters import as_object, effective
from headrace.types import Caller, ChatRequest, CompletionRequest, SamplingParams

EXPLAIN_HEADER = b"x-headrace-explain"
PARAMETERS_HEADER = b"x-headrace-parameters"
MAX_HEADER_BYTES = 4096
"""Clients and proxies refuse longer ones (aiohttp 8190, nginx 4096 by default)."""


def begin(exchange: Exchange, flight: Flight) -> None:
    """A request has arrived."""
    parents = exchange.header_values(b"traceparent")
    state = ",".join(exchange.header_values(b"tracestate"))
    context = join(flight.id, parents[0] if len(parents) == 1 else None, state)
    flight.detail = Detail(context=context)
    flight.trail.traceparent = context.traceparent
    flight.trail.tracestate = context.state


def identified(services: Services, flight: Flight, caller: Caller) -> None:
    """It is known who asks."""
    detail = flight.detail
    if detail is None:
        return
    detail.mark("identified")
    if services.traces is not None and services.traces.keeps(caller, flight.id):
        detail.keeps_content = True
        detail.max_characters = services.traces.max_characters


def asked(
    exchange: Exchange, flight: Flight, served: Served, request: ChatRequest | CompletionRequest
) -> None:
    """It is known what for.

    Raises: InvalidParameter for a value of `x-headrace-explain` that there is not.
    """
    detail = flight.detail
    if detail is None:
        return
    detail.mark("decoded")
    detail.asked = request
    if served.codec is not None:
        detail.detokenize = served.codec.detokenize
    wanted = exchange.header(EXPLAIN_HEADER)
    if wanted not in (None, "0", "1"):
        raise InvalidParameter(
            f"the header {EXPLAIN_HEADER.decode()} is {(wanted or '')[:40]!r}; it takes 1 or 0"
        )
    if wanted == "1":
        flight.on_started = lambda: _explain(exchange, flight, detail)


def admitted(flight: Flight, sampling: SamplingParams) -> None:
    """It may go on, with these."""
    if flight.detail is not None:
        flight.detail.mark("held")
        flight.detail.admitted = sampling


def _explain(exchange: Exchange, flight: Flight, detail: Detail) -> None:
    assert detail.asked is not None
    sampling = detail.admitted or detail.asked.sampling
    found = as_object(effective(detail.asked, sampling, flight.trail.notes))
    text = json.dumps(found, separators=(",", ":"))  # ASCII, as a header must be
    if len(text) > MAX_HEADER_BYTES:
        text = json.dumps({"see": f"/v1/requests/{flight.id}/explain"})
    exchange.headers.append((PARAMETERS_HEADER, text.encode()))
