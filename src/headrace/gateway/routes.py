"""The routes: an exchange → a decoded call → a backend's events → an encoded answer.

Each takes the exchange and the flight that accounts for it; errors go up to `asgi`, which answers
them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from headrace.gateway.admission import admit_chat, admit_completions
from headrace.gateway.calls import (
    cards,
    find,
    name_flight,
    need_codec,
    need_completions,
    read_body,
)
from headrace.gateway.codec import TextCodec
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, unless_left
from headrace.gateway.services import Services
from headrace.gateway.streams import gathered, merge, send_stream, whole
from headrace.types import Caller, ChatRequest, Event
from headrace.wire import openai_chat, openai_completions, token_calls
from headrace.wire.openai_answers import AnswerInfo

if TYPE_CHECKING:
    from headrace.tokens import Rendered, Span

OpenRoute: TypeAlias = Callable[[Services, Exchange], Awaitable[None]]


async def chat(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/chat/completions."""
    call = openai_chat.decode(await read_body(services, exchange))
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
    info = AnswerInfo(
        id=f"chatcmpl-{exchange.request_id}",
        model=served.card.name,
        include_usage=call.include_usage,
        return_token_ids=call.return_token_ids,
        logprobs=request.sampling.logprobs is not None,
    )
    async with exchange.watched() as left:
        if not call.stream:
            collected = await unless_left(gathered(flight, served.chat, request), left)
            await exchange.answer(200, openai_chat.encode(info, collected))
            return
        events = flight.watch(0, served.chat.stream(request))
        encoder = openai_chat.ChunkEncoder(info)

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
        )


async def completions(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """POST /v1/completions."""
    call = openai_completions.decode(await read_body(services, exchange))
    served = find(services, call.requests[0].model, caller)
    name_flight(flight, served, streamed=call.stream, end_user=call.end_user)
    backend = need_completions(served)
    first = call.requests[0]
    info = AnswerInfo(
        id=f"cmpl-{exchange.request_id}",
        model=served.card.name,
        include_usage=call.include_usage,
        return_token_ids=call.return_token_ids,
        logprobs=first.sampling.logprobs is not None,
    )
    many = len(call.requests) > 1
    requests = [
        replace(
            item,
            caller=caller,
            trace=f"{exchange.request_id}-{at}" if many else exchange.request_id,
            trail=flight.trail,
            priority=flight.priority,
        )
        for at, item in enumerate(call.requests)
    ]
    requests = await admit_completions(services, exchange, flight, served, requests)
    unscored: list[str | None] = [None] * len(requests)
    if first.echo and info.logprobs:
        codec = need_codec(served)
        unscored = [
            await asyncio.to_thread(
                _first_token, codec, item.prompt, add_special=item.add_special_tokens
            )
            for item in requests
        ]
    streams = [flight.watch(at, backend.complete(item)) for at, item in enumerate(requests)]
    async with exchange.watched() as left:
        if not call.stream:
            collected = await unless_left(whole(streams), left)
            body = openai_completions.encode(info, collected, unscored=unscored)
            await exchange.answer(200, body)
            return
        encoder = openai_completions.ChunkEncoder(
            info, choices_per_prompt=first.sampling.n, unscored=unscored
        )
        await send_stream(
            exchange,
            flight,
            merge(streams),
            push=encoder.push,
            end=encoder.end,
            left=left,
            limits=services.limits,
        )


async def tokenize(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /tokenize."""
    call = token_calls.decode_tokenize(await read_body(services, exchange))
    served = find(services, call.model, caller)
    name_flight(flight, served)
    codec = need_codec(served)

    def work() -> bytes:
        if isinstance(call.content, str):
            ids = codec.tokenize(call.content, add_special=call.add_special)
        else:
            ids = codec.render(replace(call.content, caller=caller)).ids
        texts = codec.token_texts(ids) if call.return_texts else None
        context_tokens = served.card.context_tokens
        return token_calls.encode_tokenize(ids, context_tokens=context_tokens, texts=texts)

    await _answer_from_thread(exchange, work)


async def detokenize(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """POST /detokenize."""
    call = token_calls.decode_detokenize(await read_body(services, exchange))
    served = find(services, call.model, caller)
    name_flight(flight, served)
    codec = need_codec(served)

    def work() -> bytes:
        return token_calls.encode_detokenize(codec.detokenize(call.tokens))

    await _answer_from_thread(exchange, work)


async def render(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /render: the exact prompt of a chat request, and whose each token is."""
    request: ChatRequest = openai_chat.decode_render(await read_body(services, exchange))
    served = find(services, request.model, caller)
    name_flight(flight, served)
    asked = replace(request, caller=caller)
    codec = need_codec(served)

    def work() -> bytes:
        return encode_rendered(codec.render(asked), context=served.card.context_tokens)

    await _answer_from_thread(exchange, work)


async def models(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/models."""
    await exchange.answer(200, token_calls.encode_models(cards(services, caller)))


async def model(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/models/{id}; an id may have slashes."""
    name = exchange.params["model"]
    card = next((card for card in cards(services, caller) if card.name == name), None)
    card = card or find(services, name, caller).card
    await exchange.answer(200, token_calls.encode_model(card))


async def livez(services: Services, exchange: Exchange) -> None:
    """GET /livez: the process answers."""
    await exchange.answer(200, b'{"status":"ok"}')


async def readyz(services: Services, exchange: Exchange) -> None:
    """GET /readyz: it takes requests now."""
    health = services.health()
    if health.ready and health.detail:
        body = msgspec.json.encode({"status": "ok", "detail": health.detail})
        await exchange.answer(200, body)
        return
    await _health(exchange, good=health.ready, reason=health.reason or "not ready")


async def startupz(services: Services, exchange: Exchange) -> None:
    """GET /startupz: it has started once."""
    health = services.health()
    await _health(exchange, good=health.started, reason=health.reason or "starting")


OPEN: Mapping[str, OpenRoute] = {"/livez": livez, "/readyz": readyz, "/startupz": startupz}
"""For probes: GET, no key, nothing but health."""


def encode_rendered(rendered: "Rendered", *, context: int) -> bytes:
    """The answer of POST /render."""
    return msgspec.json.encode(
        {
            "token_ids": rendered.ids,
            "count": len(rendered.ids),
            "max_model_len": context,
            "text": rendered.text,
            "spans": [_span(span) for span in rendered.spans],
        }
    )


def _span(span: "Span") -> dict[str, Any]:
    body = asdict(span)
    if span.label is not None:
        body["label"] = {
            "integrity": span.label.integrity,
            "readers": None if span.label.readers is None else sorted(span.label.readers),
            "origins": sorted(span.label.origins),
        }
    return body


def _first_token(codec: TextCodec, prompt: str | Sequence[int], *, add_special: bool) -> str | None:
    """Text of a prompt's first token: nothing scores it, so no event carries it."""
    ids = codec.tokenize(prompt, add_special=add_special) if isinstance(prompt, str) else prompt
    return codec.detokenize(ids[:1]) if ids else None


async def _answer_from_thread(exchange: Exchange, work: Callable[[], bytes]) -> None:
    # Tokenizers release the interpreter's lock, and megabytes must not stall other streams.
    await exchange.answer(200, await asyncio.to_thread(work))


async def _health(exchange: Exchange, *, good: bool, reason: str) -> None:
    if good:
        await exchange.answer(200, b'{"status":"ok"}')
        return
    body = msgspec.json.encode({"status": "unavailable", "reason": reason})
    await exchange.answer(503, body, headers=((b"retry-after", b"1"),))
