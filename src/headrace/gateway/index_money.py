"""What embedding for an index costs: held before each call, settled after it.

A question's one vector, and the answer to it, are of one hold, as a chat's; documents take many
calls, each of which is held and settled as an entry of its own, so that a budget ends an ingestion
where it is spent and what was done until then stays.
"""

from collections.abc import Callable
from dataclasses import replace

from headrace.errors import ModelNotFound
from headrace.gateway.admission import settlement
from headrace.gateway.calls import find_embedder
from headrace.gateway.flight import Flight, Settled
from headrace.gateway.index_rights import index_owner
from headrace.gateway.need import Need
from headrace.gateway.prices import Prices
from headrace.gateway.services import ServedEmbedder, Services
from headrace.types import (
    Caller,
    Embedded,
    Embedder,
    EmbedderCard,
    EmbedRequest,
    Errand,
    Usage,
    total,
)


def errand(
    services: Services,
    flight: Flight,
    caller: Caller,
    embedder: Callable[[ServedEmbedder], Embedder],
) -> Errand:
    """What the caller wants done, with the models that it may use."""
    return Errand(
        embedder=lambda name: embedder(served_embedder(services, name, caller)),
        caller=caller,
        owner=index_owner(caller),
        trace=flight.id,
        trail=flight.trail,
    )


def served_embedder(services: Services, name: str, caller: Caller) -> ServedEmbedder:
    """By name; an empty one is the only one's. Raises: ModelNotFound."""
    if not name:
        if len(services.embedders) != 1:
            raise ModelNotFound(
                f"`embedder` is missing, and this service has {len(services.embedders)} models "
                f"that make vectors: {', '.join(services.embedders) or 'set embeddings.path'}",
                param="embedder",
            )
        [name] = services.embedders
    return find_embedder(services, name, caller)


_MARKS = 64


class Held:
    """An `Embedder` each of whose calls is an entry of the ledger."""

    def __init__(self, services: Services, flight: Flight, served: ServedEmbedder) -> None:
        self._services = services
        self._flight = flight
        self._served = served

    @property
    def card(self) -> EmbedderCard:
        return self._served.embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`."""
        return await self._served.embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`. Raises: As `Ledger.hold` too."""
        flight, own = self._flight, request.trail.fork()
        own.legs = []
        settle = await self._hold(replace(request, trail=own))
        usage, finish = Usage(), "error"
        try:
            answer = await self._served.embedder.embed(replace(request, trail=own))
            usage, finish = answer.usage, "stop"
            return answer
        finally:
            used = total([leg.usage for leg in own.legs]) if own.legs else usage
            paid = settle(used, finish)
            flight.trail.legs.extend(own.legs)
            if paid is not None:
                flight.parts_nanousd += paid.cost_nanousd
                flight.settle = lambda _usage, _finish: Settled(flight.parts_nanousd)

    async def _hold(self, request: EmbedRequest) -> Callable[[Usage, str], Settled | None]:
        ledger, book, flight = self._services.ledger, self._services.prices, self._flight
        if ledger is None or book is None:
            return lambda _usage, _finish: None
        flight.parts += 1
        need = await _need(flight, request, self._served, book, id=f"{flight.id}-{flight.parts}")
        return settlement(ledger, await ledger.hold(need), request.trail)


class Asked:
    """An `Embedder` of a question: what it makes is held for and settled with its request."""

    def __init__(self, services: Services, flight: Flight, served: ServedEmbedder) -> None:
        self._services = services
        self._flight = flight
        self._served = served

    @property
    def card(self) -> EmbedderCard:
        return self._served.embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        """As `Embedder.count`."""
        return await self._served.embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """As `Embedder.embed`. Raises: As `Ledger.hold` too."""
        ledger, book, flight = self._services.ledger, self._services.prices, self._flight
        flight.model = self.card.name
        if flight.settle is None and ledger is not None and book is not None:
            need = await _need(flight, request, self._served, book, id=flight.id)
            flight.settle = settlement(ledger, await ledger.hold(need), flight.trail)
        return await self._served.embedder.embed(request)


async def _need(
    flight: Flight, request: EmbedRequest, served: ServedEmbedder, book: Prices, *, id: str
) -> Need:
    assert flight.caller is not None
    return Need(
        id=id,
        caller=flight.caller,
        model=served.embedder.card.name,
        route=flight.route,
        input_tokens=sum(await served.embedder.count(request)),
        output_tokens=0,
        least_output=0,
        tariff=await book.tariff((served.target,)),
    )


def question_tokens(query: str) -> int:
    """More than any tokenizer makes of a question, with the model's own marks and prompt."""
    return len(query.encode()) + _MARKS
