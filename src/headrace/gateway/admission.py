"""A decoded call → the same call, held for: the worst it may use is reserved, or it is refused.

The prompt is counted by the model's own renderer where there is one, else bounded by its bytes. An
answer that cannot be paid whole is made shorter, and the header `x-headrace-max-tokens` says so;
what the request used is settled where its flight lands, however it ends.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.gateway import tracing
from headrace.gateway.billing import usage_of
from headrace.gateway.calls import need_codec
from headrace.gateway.flight import Flight, Settled
from headrace.gateway.http import Exchange
from headrace.gateway.ledger import Ledger
from headrace.gateway.need import Need
from headrace.gateway.services import Served, Services
from headrace.gateway.slices import Hold
from headrace.types import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    DocumentPart,
    ImagePart,
    ReasoningPart,
    SamplingParams,
    Target,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Trail,
    Usage,
)

_INLINE_CHARACTERS = 4096
_FRAME_TOKENS = 64
"""Of a message, a tool or a call: roles, marks, names."""
_MEDIA_TOKENS = 16_384
"""Of an image or a sound, whose tokens only its provider knows; more than they charge for one."""
_MOST_OUTPUT = 8192
"""Of a model that says nothing of its context."""
CLAMPED_HEADER = b"x-headrace-max-tokens"


async def admit_chat(
    services: Services, exchange: Exchange, flight: Flight, served: Served, request: ChatRequest
) -> ChatRequest:
    """Hold for a conversation.

    Raises: As `Ledger.hold` and `PriceBook.of`; a template's error.
    """
    tracing.asked(exchange, flight, served, request)
    if services.ledger is None:
        tracing.admitted(flight, request.sampling)
        return request
    if served.codec is None:
        length = most_tokens(request)
    elif sum(len(message.text) for message in request.messages) <= _INLINE_CHARACTERS:
        length = len(served.codec.render(request).ids)
    else:
        length = len((await asyncio.to_thread(served.codec.render, request)).ids)
    if served.codec is not None:
        flight.mark("rendered")
    length += served.added_tokens
    [sampling] = await _admit(services, exchange, flight, served, [length], [request.sampling])
    tracing.admitted(flight, sampling)
    return request if sampling is request.sampling else replace(request, sampling=sampling)


async def admit_completions(
    services: Services,
    exchange: Exchange,
    flight: Flight,
    served: Served,
    requests: Sequence[CompletionRequest],
) -> list[CompletionRequest]:
    """Hold for raw prompts, all together. Raises: As `Ledger.hold` and `PriceBook.of`."""
    tracing.asked(exchange, flight, served, requests[0])
    if services.ledger is None:
        tracing.admitted(flight, requests[0].sampling)
        return list(requests)
    codec = need_codec(served)
    inputs: list[int] = []
    for request in requests:
        if isinstance(request.prompt, str):
            ids = await asyncio.to_thread(
                codec.tokenize, request.prompt, add_special=request.add_special_tokens
            )
            inputs.append(len(ids))
        else:
            inputs.append(len(request.prompt))
    samplings = [request.sampling for request in requests]
    admitted = await _admit(services, exchange, flight, served, inputs, samplings)
    tracing.admitted(flight, admitted[0])
    return [replace(r, sampling=s) for r, s in zip(requests, admitted, strict=True)]


def most_tokens(request: ChatRequest) -> int:
    """More tokens than a provider can make of a conversation: no tokenizer splits bytes."""
    total = _FRAME_TOKENS
    for tool in request.tools:
        spelled = f"{tool.name}{tool.description or ''}{json.dumps(tool.parameters)}"
        total += _FRAME_TOKENS + len(spelled.encode())
    for message in request.messages:
        total += _FRAME_TOKENS
        for part in message.parts:
            match part:
                case TextPart() | ReasoningPart() | ToolResultPart():
                    total += len(part.text.encode())
                case DocumentPart():
                    total += len(part.text.encode()) + _unread(part)
                case ToolCallPart():
                    total += _FRAME_TOKENS + len(f"{part.name}{part.arguments}".encode())
                case ImagePart() | AudioPart():
                    total += _MEDIA_TOKENS
    return total


def _unread(part: DocumentPart) -> int:
    """Of a file that only the provider reads: its bytes, and as much as an image for its pages."""
    if part.data is None and part.url is None:
        return 0
    return _MEDIA_TOKENS + len(part.data or b"")


async def _admit(
    services: Services,
    exchange: Exchange,
    flight: Flight,
    served: Served,
    inputs: Sequence[int],
    samplings: Sequence[SamplingParams],
) -> list[SamplingParams]:
    ledger, book = services.ledger, services.prices
    assert ledger is not None
    assert book is not None
    assert flight.caller is not None
    card = served.card
    longest = [
        _longest(served, length, sampling)
        for length, sampling in zip(inputs, samplings, strict=True)
    ]
    choices = sum(s.n for s in samplings)
    candidates = served.candidates or (Target(provider="", model=card.name),)
    hold = await ledger.hold(
        Need(
            id=flight.id,
            caller=flight.caller,
            model=card.name,
            route=flight.route,
            batch=flight.batch,
            input_tokens=sum(inputs),
            output_tokens=sum(n * s.n for n, s in zip(longest, samplings, strict=True)),
            least_output=choices,
            tariff=await book.tariff(candidates, calls=served.calls),
        )
    )

    flight.settle = settlement(ledger, hold, flight.trail)
    each = hold.output_tokens // choices if hold.clamped else max(longest)
    # A provider that was given no limit writes as much as it likes, whatever was held for it.
    open_ended = served.codec is None and any(s.max_tokens is None for s in samplings)
    if not hold.clamped and not (open_ended and hold.taken):
        return list(samplings)
    flight.trail.note(
        "admission",
        f"the answer may have {each} tokens, which is what its limits pay for"
        if hold.clamped
        else f"the answer may have {each} tokens, which is what was held for it",
        max_tokens=each,
        clamped=hold.clamped,
    )
    exchange.headers.append((CLAMPED_HEADER, str(each).encode()))
    return [replace(s, max_tokens=min(n, each)) for n, s in zip(longest, samplings, strict=True)]


def settlement(ledger: Ledger, hold: Hold, trail: Trail) -> Callable[[Usage, str], Settled | None]:
    """What settles a hold where its flight lands."""

    def settle(usage: Usage, finish: str) -> Settled | None:
        booked = ledger.settle(hold, usage, finish=finish, trail=trail)
        if booked is None:
            return None
        return Settled(booked.cost_nanousd, usage_of(booked) if booked.estimated else None)

    return settle


def _longest(served: Served, length: int, sampling: SamplingParams) -> int:
    """Tokens that a choice may have before any limit is asked."""
    context = served.card.context_tokens
    room = max(1, context - length) if context else None
    if sampling.max_tokens is not None:
        asked = max(1, sampling.max_tokens)
        # The bytes of a provider's prompt say little about how much of its context is left.
        return asked if room is None or served.codec is None else min(asked, room)
    if served.codec is not None and room is not None:
        return room
    return served.max_output_tokens or room or _MOST_OUTPUT
