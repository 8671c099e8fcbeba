"""A decoded call → the same call, held for: the worst it may use is reserved, or it is refused.

The prompt is counted by the model's own renderer where there is one, else bounded by its bytes. An
answer that cannot be paid whole is made shorter, and the header `x-headrace-max-tokens` says so;
what the request used is settled where its flight lands, however it ends.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

from headrace.gateway.calls import need_codec
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.need import Need
from headrace.gateway.services import Served, Services
from headrace.types import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    DocumentPart,
    ImagePart,
    ReasoningPart,
    SamplingParams,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

_INLINE_CHARACTERS = 4096
_FRAME_TOKENS = 64
"""Of a message, a tool or a call: roles, marks, names."""
_MEDIA_TOKENS = 16_384
"""Of an image or a sound, whose tokens only its provider knows; more than they charge for one."""
CLAMPED_HEADER = b"x-headrace-max-tokens"


async def admit_chat(
    services: Services, exchange: Exchange, flight: Flight, served: Served, request: ChatRequest
) -> ChatRequest:
    """Hold for a conversation.

    Raises: As `Ledger.hold` and `PriceBook.of`; a template's error.
    """
    if services.ledger is None:
        return request
    if served.codec is None:
        length = most_tokens(request)
    elif sum(len(message.text) for message in request.messages) <= _INLINE_CHARACTERS:
        length = len(served.codec.render(request).ids)
    else:
        length = len((await asyncio.to_thread(served.codec.render, request)).ids)
    [sampling] = await _admit(services, exchange, flight, served, [length], [request.sampling])
    return replace(request, sampling=sampling)


async def admit_completions(
    services: Services,
    exchange: Exchange,
    flight: Flight,
    served: Served,
    requests: Sequence[CompletionRequest],
) -> list[CompletionRequest]:
    """Hold for raw prompts, all together. Raises: As `Ledger.hold` and `PriceBook.of`."""
    if services.ledger is None:
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
                case TextPart() | ReasoningPart() | ToolResultPart() | DocumentPart():
                    total += len(part.text.encode())
                case ToolCallPart():
                    total += _FRAME_TOKENS + len(f"{part.name}{part.arguments}".encode())
                case ImagePart() | AudioPart():
                    total += _MEDIA_TOKENS
    return total


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
    rooms = [max(1, card.context_tokens - length) for length in inputs]
    longest = [
        room if s.max_tokens is None else max(1, min(s.max_tokens, room))
        for room, s in zip(rooms, samplings, strict=True)
    ]
    choices = sum(s.n for s in samplings)
    hold = await ledger.hold(
        Need(
            id=flight.id,
            caller=flight.caller,
            model=card.name,
            route=flight.route,
            input_tokens=sum(inputs),
            output_tokens=sum(n * s.n for n, s in zip(longest, samplings, strict=True)),
            least_output=choices,
            price=await book.of(card.name),
        )
    )

    def settle(usage: Usage, finish: str) -> None:
        ledger.settle(hold, usage, finish=finish)

    flight.settle = settle
    if not hold.clamped:
        return list(samplings)
    each = hold.output_tokens // choices
    exchange.headers.append((CLAMPED_HEADER, str(each).encode()))
    return [replace(s, max_tokens=min(n, each)) for n, s in zip(longest, samplings, strict=True)]
