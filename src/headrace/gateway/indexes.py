"""Retrieval over HTTP: /v1/indexes, the documents of each, search and cited answers.

What embedding costs is held as /v1/embeddings holds it, and an answer as a chat is: its sources
count as the prompt that they become. Who may do what: `headrace.gateway.index_rights`.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec

from headrace.gateway.admission import admit_chat
from headrace.gateway.calls import name_flight, read_body
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, unless_left
from headrace.gateway.index_answers import grounded
from headrace.gateway.index_forms import read_documents
from headrace.gateway.index_money import Asked, Held, errand
from headrace.gateway.index_rights import (
    check_manages,
    index_owner,
    listing_as,
    need_indexes,
    searching_as,
)
from headrace.gateway.queries import read_list_query, read_query
from headrace.gateway.services import ServedEmbedder, Services
from headrace.gateway.streams import gathered, merge, send_stream
from headrace.types import Caller, ChatRequest, Embedder, Event, SearchRequest
from headrace.wire import index_answers, index_calls

_PAGE, _MOST = 100, 1000


async def create(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/indexes."""
    check_manages(caller)
    indexes = need_indexes(services)
    spec = index_calls.decode_create(await read_body(services, exchange))
    spec = replace(spec, owner=index_owner(caller))
    made = await indexes.create(spec, errand(services, flight, caller, _held(services, flight)))
    await _answer(exchange, index_answers.index_object(made))


async def list_indexes(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/indexes."""
    read_query(exchange)
    cards = await need_indexes(services).list(index_owner(caller))
    await exchange.answer(200, index_answers.encode_indexes(cards))


async def get_index(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/indexes/{index}."""
    read_query(exchange)
    card = await need_indexes(services).describe(exchange.params["index"], index_owner(caller))
    await _answer(exchange, index_answers.index_object(card))


async def delete_index(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """DELETE /v1/indexes/{index}: with all that it kept."""
    read_query(exchange)
    check_manages(caller)
    name = exchange.params["index"]
    await need_indexes(services).delete(name, index_owner(caller))
    await _answer(exchange, {"name": name, "object": "index", "deleted": True})


async def add_documents(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """POST /v1/indexes/{index}/documents: texts as JSON, or files as a form."""
    check_manages(caller)
    indexes = need_indexes(services)
    documents = await read_documents(services, exchange)
    mine = errand(services, flight, caller, _held(services, flight))
    async with exchange.watched() as left:
        work = indexes.ingest(exchange.params["index"], documents, mine)
        done = await unless_left(work, left)
        flight.answered(done.usage)
        await exchange.answer(200, index_answers.encode_ingested(done))


async def list_documents(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/indexes/{index}/documents."""
    asked = read_list_query(exchange, default=_PAGE, most=_MOST)
    page = await need_indexes(services).documents(
        exchange.params["index"],
        index_owner(caller),
        await listing_as(services, caller, exchange.params["index"]),
        after=asked.after,
        limit=asked.limit,
    )
    await exchange.answer(200, index_answers.encode_page(page))


async def get_document(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/indexes/{index}/documents/{document}; an id may have slashes."""
    read_query(exchange)
    status = await need_indexes(services).document(
        exchange.params["index"],
        exchange.params["document"],
        index_owner(caller),
        await listing_as(services, caller, exchange.params["index"]),
    )
    await _answer(exchange, index_answers.document_object(status))


async def delete_document(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """DELETE /v1/indexes/{index}/documents/{document}: its text too, everywhere."""
    read_query(exchange)
    check_manages(caller)
    id = exchange.params["document"]
    await need_indexes(services).remove(exchange.params["index"], id, index_owner(caller))
    await _answer(exchange, {"id": id, "object": "index.document", "deleted": True})


async def sync(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/indexes/{index}/sync: bring it, or some items of a source, to where that is."""
    check_manages(caller)
    indexes = need_indexes(services)
    asked = index_calls.decode_sync(await read_body(services, exchange))
    mine = errand(services, flight, caller, _held(services, flight))
    async with exchange.watched() as left:
        work = indexes.sync(exchange.params["index"], asked.source, mine, only=asked.only)
        done = await unless_left(work, left)
        await exchange.answer(200, index_answers.encode_synced(done))


async def search(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/indexes/{index}/search."""
    indexes = need_indexes(services)
    asked = index_calls.decode_search(await read_body(services, exchange))
    flight.end_user = asked.end_user
    request = SearchRequest(
        index=exchange.params["index"],
        query=asked.query,
        k=asked.k,
        mode=asked.mode,
        filter=asked.filter,
        principals=await searching_as(services, caller, exchange.params["index"], asked.principals),
        rerank=asked.rerank,
        deadline_s=asked.deadline_s,
        caller=caller,
        trace=exchange.request_id,
    )

    def embedder(served: ServedEmbedder) -> Embedder:
        return Asked(services, flight, served)

    mine = errand(services, flight, caller, embedder)
    async with exchange.watched() as left:
        found = await unless_left(indexes.search(request, mine), left)
        flight.answered(found.usage)
        await exchange.answer(200, index_answers.encode_found(found))


async def answer(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/indexes/{index}/answer: with citations."""
    asked = index_calls.decode_ask(await read_body(services, exchange))
    index = exchange.params["index"]
    served = await grounded(services, flight, caller, index, asked)
    name_flight(flight, served, streamed=asked.stream, end_user=asked.end_user)
    request = ChatRequest(
        model=served.card.name,
        messages=asked.messages,
        sampling=asked.sampling,
        deadline_s=asked.deadline_s,
        caller=caller,
        trace=exchange.request_id,
        trail=flight.trail,
        priority=flight.priority,
        streamed=asked.stream,
    )
    request = await admit_chat(services, exchange, flight, served, request)
    head = index_answers.AnswerHead(
        id=f"idxans-{exchange.request_id}", index=index, model=served.card.name
    )
    async with exchange.watched() as left:
        if not asked.stream:
            collected = await unless_left(gathered(flight, served.chat, request), left)
            await exchange.answer(200, index_answers.encode_answer(head, collected))
            return
        encoder = index_answers.AnswerEncoder(head)

        def push(_: int, event: Event) -> bytes:
            return encoder.push(event)

        await send_stream(
            exchange,
            flight,
            merge([flight.watch(0, served.chat.stream(request))]),
            push=push,
            end=bytes,
            left=left,
            limits=services.limits,
        )


def _held(services: Services, flight: Flight) -> Callable[[ServedEmbedder], Embedder]:
    return lambda served: Held(services, flight, served)


async def _answer(exchange: Exchange, value: object) -> None:
    await exchange.answer(200, msgspec.json.encode(value))
