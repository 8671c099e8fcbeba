"""POST /v1/embeddings: held for, made, counted.

The exact count of tokens is held before the call (of a provider's model the most that its bytes
can be); there is no answer to clamp. Nothing is cached.
"""

import asyncio
from dataclasses import replace

from headrace.gateway.admission import settlement
from headrace.gateway.calls import find_embedder, read_body
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, unless_left
from headrace.gateway.need import Need
from headrace.gateway.services import ServedEmbedder, Services
from headrace.types import Caller, Embedded, EmbedRequest
from headrace.wire import openai_embeddings

_INLINE_NUMBERS = 20_000
"""An answer with more is spelled in a thread, that other streams may go on."""


async def embeddings(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """POST /v1/embeddings."""
    body = await read_body(services, exchange)
    call = openai_embeddings.decode(body)
    served = find_embedder(services, call.request.model, caller)
    name = flight.model = served.embedder.card.name
    flight.end_user = call.end_user
    request = replace(call.request, caller=caller, trace=exchange.request_id, trail=flight.trail)
    async with exchange.watched() as left:
        answer = await unless_left(_made(services, flight, served, request), left)
        if answer.count * answer.dimensions <= _INLINE_NUMBERS:
            encoded = openai_embeddings.encode(call, name, answer)
        else:
            encoded = await asyncio.to_thread(openai_embeddings.encode, call, name, answer)
        await exchange.answer(200, encoded)


async def _made(
    services: Services, flight: Flight, served: ServedEmbedder, request: EmbedRequest
) -> Embedded:
    await _admit(services, flight, served, request)
    answer = await served.embedder.embed(request)
    flight.answered(answer.usage)
    return answer


async def _admit(
    services: Services, flight: Flight, served: ServedEmbedder, request: EmbedRequest
) -> None:
    """Hold for the tokens of the inputs. Raises: As `Ledger.hold` and `Embedder.count`."""
    ledger, book = services.ledger, services.prices
    if ledger is None or book is None:
        return
    assert flight.caller is not None
    counts = await served.embedder.count(request)
    hold = await ledger.hold(
        Need(
            id=flight.id,
            caller=flight.caller,
            model=flight.model,
            route=flight.route,
            input_tokens=sum(counts),
            output_tokens=0,
            least_output=0,
            tariff=await book.tariff((served.target,)),
        )
    )

    flight.settle = settlement(ledger, hold, flight.trail)
