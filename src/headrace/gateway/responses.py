"""OpenAI's newer surface: POST /v1/responses. Nothing is stored; see `wire.responses_request`."""

from dataclasses import replace

from headrace.gateway.admission import admit_chat
from headrace.gateway.calls import find, name_flight, read_body
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, unless_left
from headrace.gateway.messages import every
from headrace.gateway.services import Services
from headrace.gateway.streams import Tail, merge, send_stream
from headrace.types import Caller, Event
from headrace.wire import responses_answers, responses_request


async def responses(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/responses."""
    call = responses_request.decode(await read_body(services, exchange))
    served = find(services, call.request.model, caller)
    name_flight(flight, served, streamed=call.stream, end_user=call.end_user)
    request = replace(call.request, caller=caller, trace=exchange.request_id, trail=flight.trail)
    request = await admit_chat(services, exchange, flight, served, request)
    call = replace(call, request=request)
    response_id, model = f"resp_{exchange.request_id}", served.card.name
    events = flight.watch(0, served.chat.stream(request))
    async with exchange.watched() as left:
        if not call.stream:
            found = await unless_left(every(events), left)
            body = responses_answers.encode(found, call, id=response_id, model=model)
            await exchange.answer(200, body)
            return
        encoder = responses_answers.ResponseEncoder(call, id=response_id, model=model)

        def push(_: int, event: Event) -> bytes:
            return encoder.push(event)

        await send_stream(
            exchange,
            flight,
            merge([events]),
            push=push,
            end=encoder.end,
            left=left,
            limits=services.limits,
            tail=Tail(done=b"", fail=encoder.fail),
        )
