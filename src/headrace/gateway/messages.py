"""Anthropic's surface: POST /v1/messages and /v1/messages/count_tokens."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from headrace.errors import UnsupportedParameter
from headrace.gateway.admission import admit_chat
from headrace.gateway.calls import find, name_flight, read_body
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, closing, unless_left
from headrace.gateway.services import Services
from headrace.gateway.streams import Tail, merge, send_stream
from headrace.types import Caller, Event
from headrace.wire import anthropic_answers, anthropic_messages
from headrace.wire.anthropic_errors import error_frame

TAIL = Tail(done=b"", fail=error_frame)
"""The stream's own last event ends it."""


async def messages(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/messages."""
    call = anthropic_messages.decode(await read_body(services, exchange))
    served = find(services, call.request.model, caller)
    name_flight(flight, served, streamed=call.stream, end_user=call.end_user)
    request = replace(
        call.request,
        caller=caller,
        trace=exchange.request_id,
        trail=flight.trail,
        priority=flight.priority,
        streamed=call.stream,
    )
    request = await admit_chat(services, exchange, flight, served, request)
    message_id, model = f"msg_{exchange.request_id}", served.card.name
    events = flight.watch(0, served.chat.stream(request))
    async with exchange.watched() as left:
        if not call.stream:
            found = await unless_left(every(events), left)
            await exchange.answer(200, anthropic_answers.encode(found, id=message_id, model=model))
            return
        encoder = anthropic_answers.MessageEncoder(id=message_id, model=model)

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
            tail=TAIL,
        )


async def count_tokens(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """POST /v1/messages/count_tokens: exactly what the model will read, or an error."""
    request = anthropic_messages.decode_count(await read_body(services, exchange))
    served = find(services, request.model, caller)
    name_flight(flight, served)
    request = replace(request, caller=caller, trace=exchange.request_id)
    if served.codec is not None:
        tokens = len((await asyncio.to_thread(served.codec.render, request)).ids)
    elif served.counter is not None:
        async with exchange.watched() as left:
            tokens = await unless_left(served.counter.count(request), left)
    else:
        raise UnsupportedParameter(
            f"the provider of the model {served.card.name!r} counts no tokens ahead of a call",
            param="model",
        )
    await exchange.answer(200, anthropic_answers.encode_count(tokens))


async def every(events: AsyncIterator[Event]) -> list[Event]:
    """All events of one answer."""
    async with closing(events):
        return [event async for event in events]
