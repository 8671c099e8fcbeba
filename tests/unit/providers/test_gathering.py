"""An answer gathered is the answer streamed: events, error, legs and the circuit's state."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from headrace.errors import HeadraceError, PlaceForbidden
from headrace.providers.gathering import gatherer
from headrace.providers.metered import Metered
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.providers.residency import Place, Residency, Resident
from headrace.providers.resilience import Breaker, BreakerPolicy, Named, Retrying, RetryPolicy
from headrace.types import (
    Backend,
    ChatRequest,
    Event,
    Message,
    Role,
    SamplingParams,
    TextPart,
    Trail,
)
from upstreams import Say, upstream

ASKED = ChatRequest(
    model="m",
    messages=(Message(role=Role.USER, parts=(TextPart(text="hi"),)),),
    sampling=SamplingParams(max_tokens=2),
    streamed=False,
)
ANSWER: dict[str, Any] = {
    "id": "c-1",
    "created": 5,
    "model": "m-2",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "reasoning_content": "hm"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
CHOICE = ANSWER["choices"][0]


def say(tree: object, status: int = 200, kind: str = "application/json") -> Say:
    return Say(body=json.dumps(tree).encode(), status=status, kind=kind)


def ids(*found: int) -> dict[str, Any]:
    return {**ANSWER, "choices": [{**CHOICE, "token_ids": found}]}


ANSWERS: dict[str, list[Say]] = {
    "good": [say(ANSWER)],
    "more than was asked for": [say(ids(1, 2, 3))],
    "more than was asked for, and broken": [say({**ids(1, 2, 3), "usage": None})],
    "no usage": [say({**ANSWER, "usage": None})],
    "a choice too many": [say({**ANSWER, "choices": [CHOICE, {**CHOICE, "index": 1}]})],
    "no end": [say({**ANSWER, "choices": [{**CHOICE, "finish_reason": None}]})],
    "an error inside": [say({"error": {"message": "out of memory"}})],
    "not JSON": [Say(body=b"{nope", kind="application/json")],
    "nothing": [Say(kind="application/json")],
    "another kind": [Say(body=b"<h1>", kind="text/html")],
    "cut": [Say(body=json.dumps(ANSWER).encode()[:40], kind="application/json", cut=True)],
    "refuses us": [say({"error": {"message": "no"}}, 401)],
    "knows no such model": [say({"error": {"message": "no"}}, 404)],
    "the caller's mistake": [say({"error": {"message": "bad"}}, 400)],
    "away, then there": [say("oops", 500), say(ANSWER)],
    "away": [say("oops", 503)],
    "a stream, since that is how it is asked": [say(ANSWER)],
}


class Seen(NamedTuple):
    events: list[Event]
    error: tuple[type[BaseException], str] | None
    legs: list[Any]
    notes: list[tuple[str, str]]
    heard: object
    state: str
    asked: int


async def see(answers: list[Say], *, gathered: bool, always: bool = False) -> Seen:
    request = replace(ASKED, trail=Trail())
    events: list[Event] = []
    error: tuple[type[BaseException], str] | None = None

    async def no_sleep(_: float) -> None:
        return

    with upstream(answers) as server:
        async with OpenAICompatible(url=server.url, stream_always=always) as leaf:
            named = Named("p", Retrying(leaf, RetryPolicy(attempts=2), sleep=no_sleep))
            breaker = Breaker("p", Metered("p", "m", named), BreakerPolicy(failures=1))
            backend: Backend = Resident(Place(), breaker, Residency({}))
            try:
                if gathered:
                    await gatherer(backend)(request, events)
                else:
                    async for event in backend.stream(request):
                        events.append(event)
            except HeadraceError as raised:
                error = type(raised), raised.message.replace(server.url, "URL")
        legs = [replace(leg, seconds=0.0, ended_s=0.0) for leg in request.trail.legs]
        notes = [(note.hop, note.text) for note in request.trail.notes]
        heard = request.trail.heard, request.trail.heard_all
        return Seen(events, error, legs, notes, heard, breaker.state, len(server.asked))


@pytest.mark.parametrize("name", ANSWERS)
async def test_gathered_is_streamed(name: str) -> None:
    always = name.startswith("a stream")
    streamed = await see(ANSWERS[name], gathered=False, always=always)
    gathered = await see(ANSWERS[name], gathered=True, always=always)
    assert gathered == streamed
    assert streamed.events or streamed.error
    assert len(streamed.legs) == 1


async def test_a_place_that_is_forbidden_is_asked_nothing() -> None:
    class Never:
        async def gather(self, request: ChatRequest, into: list[Event]) -> None:
            raise AssertionError("asked")

    place = Place(provider="p", managed=True)
    backend = Resident(place, Never(), Residency(air_gap=True))  # type: ignore[arg-type]
    request = replace(ASKED, trail=Trail())
    with pytest.raises(PlaceForbidden):
        await backend.gather(request, [])
    assert [note.hop for note in request.trail.notes] == ["residency"]
