"""OpenAI's newer surface: /v1/responses, with the answers that it keeps.

An answer is stored before its last byte goes out, so who has it can continue it at once, at every
replica. If it cannot be stored, it goes out all the same and says so: `store` false. One that broke
off because its client left is not stored.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec

from headrace.errors import HeadraceError, NotFound, StoreUnavailable, UnsupportedParameter
from headrace.gateway.admission import admit_chat
from headrace.gateway.calls import find, name_flight, read_body
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, closing, unless_left
from headrace.gateway.messages import every
from headrace.gateway.services import Services
from headrace.gateway.stored import StoredResponses, requests_of
from headrace.gateway.streams import Tail, merge, send_stream
from headrace.types import Caller, Event
from headrace.wire import responses_lists, responses_request
from headrace.wire.responses_answers import ResponseEncoder, show
from headrace.wire.responses_items import stored_items
from headrace.wire.responses_request import ResponsesCall
from headrace.wire.sse import DONE

_LOG = logging.getLogger("headrace.gateway")
_NO_STORE = "answers are not stored here (responses.store is false)"


async def responses(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/responses."""
    call = responses_request.decode(await read_body(services, exchange))
    served = find(services, call.request.model, caller)
    name_flight(flight, served, streamed=call.stream, end_user=call.end_user)
    call = await _resumed(services.responses, call, caller)
    flight.trail.continues += requests_of(call.previous, call.references)
    request = replace(
        call.request,
        caller=caller,
        trace=exchange.request_id,
        trail=flight.trail,
        priority=flight.priority,
    )
    request = await admit_chat(services, exchange, flight, served, request)
    call = replace(call, request=request)
    keeping = _Keeping(
        call=call,
        caller=caller,
        store=services.responses if call.store is not False else None,
        encoder=ResponseEncoder(call, id=f"resp_{exchange.request_id}", model=served.card.name),
    )
    encoder = keeping.encoder
    events = flight.watch(0, served.chat.stream(request))
    async with exchange.watched() as left:
        if not call.stream:
            found = await unless_left(every(keeping.watch(events)), left)
            assert found  # `watch` ends only where the encoder is whole
            body = show(encoder.whole(), encrypted=call.encrypted)
            await exchange.answer(200, msgspec.json.encode(body))
            return
        await send_stream(
            exchange,
            flight,
            merge([keeping.watch(events)]),
            push=lambda _, event: keeping.take(event),
            end=encoder.end,
            left=left,
            limits=services.limits,
            tail=Tail(done=DONE, fail=encoder.fail),
        )


async def get_response(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/responses/{id}."""
    encrypted = responses_lists.decode_get(exchange.query)
    found = await _need(services).get(caller, exchange.params["id"])
    await exchange.answer(200, msgspec.json.encode(show(found.body, encrypted=encrypted)))


async def delete_response(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """DELETE /v1/responses/{id}."""
    responses_lists.decode_none(exchange.query)
    await _need(services).delete(caller, exchange.params["id"])
    await exchange.answer(200, responses_lists.encode_deleted(exchange.params["id"]))


async def input_items(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/responses/{id}/input_items."""
    page = responses_lists.decode_page(exchange.query)
    found = await _need(services).get(caller, exchange.params["id"])
    await exchange.answer(200, responses_lists.encode_items(found.input, page))


class _Keeping:
    """An answer on its way through the encoder, and into the store at its end."""

    def __init__(
        self,
        *,
        call: ResponsesCall,
        caller: Caller,
        store: StoredResponses | None,
        encoder: ResponseEncoder,
    ) -> None:
        self.encoder = encoder
        self._call = call
        self._caller = caller
        self._store = store
        self._frames = b""
        encoder.stored = store is not None

    async def watch(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The same events; when they end, the response is whole and stored."""
        begun = False
        try:
            async with closing(events):
                async for event in events:
                    self._frames = self.encoder.push(event)
                    begun = True
                    yield event
            body = self.encoder.whole()
        except HeadraceError as error:
            if begun and self._call.stream:  # its id is known to the client
                await self._keep(self.encoder.failed(error))
            raise
        await self._keep(body)

    def take(self, event: Event) -> bytes:
        """The frames of the event that `watch` gave last."""
        return self._frames

    async def _keep(self, body: dict[str, Any]) -> None:
        if self._store is None:
            return
        items = stored_items(self._call.items, of=body["id"])
        try:
            await self._store.keep(
                self._caller,
                body,
                items,
                previous=self._call.previous,
                trail=self._call.request.trail,
            )
        except StoreUnavailable as error:
            _LOG.warning("the answer %s is not stored: %s", body["id"], error.message)
            self.encoder.stored = False


async def _resumed(
    store: StoredResponses | None, call: ResponsesCall, caller: Caller
) -> ResponsesCall:
    """The call with all of its conversation.

    Raises:
        UnsupportedParameter: It needs a store, and there is none.
        NotFound: It continues, or refers to, what is not there.
    """
    if store is None:
        if call.store:
            raise UnsupportedParameter(f"`store`: {_NO_STORE}; send false", param="store")
        if call.previous:
            raise UnsupportedParameter(
                f"`previous_response_id`: {_NO_STORE}; send the items as input",
                param="previous_response_id",
            )
        if call.references:
            raise UnsupportedParameter(
                f"`input`: item_reference: {_NO_STORE}; send the item itself", param="input"
            )
        return call
    if not call.resumes:
        return call
    earlier = await store.conversation(caller, call.previous) if call.previous else []
    found = await store.items(caller, call.references) if call.references else {}
    return responses_request.resume(call, earlier=earlier, found=found)


def _need(services: Services) -> StoredResponses:
    if services.responses is None:
        raise NotFound(_NO_STORE)
    return services.responses
