"""Streams of providers, mutated, cut and torn, through the whole gateway: the client's always ends.

Each example is a good answer of one of four protocols with bytes changed, dropped, repeated or
inserted, events twice, missing or in another order, JSON values swapped for others of the wrong
type, huge lines, bytes that are no UTF-8, and any chunking. The client's stream must be what its
protocol allows: every frame whole, an end that says how it went, never a 5xx after the head, no bug
in the log.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import HeadraceError
from headrace.types import Event
from torn_streams import ANSWERS, ASK, ODD, Torn, call, check, reader, swap, tear

LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    LOOP.close()


@st.composite
def torn(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    kind = draw(st.sampled_from([*ANSWERS]))
    data = ANSWERS[kind]
    if kind != "bedrock" and draw(st.booleans()):
        frames = data.split(b"\n\n")
        at = draw(st.integers(0, len(frames) - 1))
        head, mark, payload = frames[at].partition(b"data: ")
        try:
            tree = json.loads(payload)
        except ValueError:
            tree = None
        if mark and tree is not None:
            changed = swap(tree, draw(st.integers(0, 30)), draw(st.sampled_from(ODD)))
            frames[at] = head + mark + json.dumps(changed).encode("utf-8", "surrogatepass")
        if draw(st.booleans()):
            frames.insert(draw(st.integers(0, len(frames))), draw(st.sampled_from(frames)))
        data = b"\n\n".join(frames)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = at + draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "drop", "repeat", "insert", "cut", "zero"])):
            case "flip" if data:
                data = (
                    data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
                )
            case "drop":
                data = data[:at] + data[to:]
            case "repeat":
                data = data[:to] + data[at:]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
            case "cut":
                data = data[:at]
            case _:
                data = data[:at] + bytes(len(data[at:to])) + data[to:]
    size = draw(st.sampled_from([1, 2, 3, 7, 64, 1 << 16]))
    return kind, [data[start : start + size] for start in range(0, len(data), size)]


@settings(max_examples=150, deadline=None)
@given(stream=torn())
def test_every_stream_ends_well(stream: tuple[str, list[bytes]]) -> None:
    check(stream, LOOP)


def tear_many(count: int, *, seed: int) -> None:
    for at in range(count):
        stream = tear(random.Random(f"{seed}-{at}"))
        try:
            check(stream, LOOP)
        except BaseException as error:
            error.add_note(f"tear(random.Random('{seed}-{at}')): {stream}"[:2000])
            raise


def test_five_hundred_streams_end_well() -> None:
    tear_many(500, seed=random.randrange(10**6))


@pytest.mark.slow
def test_ten_thousand_streams_end_well() -> None:
    began = time.process_time()
    tear_many(10_000, seed=5)
    spent_s = time.process_time() - began
    print(f"10,000 streams, five surfaces each, in {spent_s:.1f} s of CPU")
    assert spent_s < 90


@pytest.mark.parametrize("kind", [*ANSWERS])
def test_the_good_answers_are_good(kind: str) -> None:
    async def run() -> None:
        status, raw = await call(Torn(kind, [ANSWERS[kind]]), "/v1/chat/completions", ASK)
        assert status == 200
        message = json.loads(raw)["choices"][0]["message"]
        assert message["content"] == "żółw 🐢"
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": 1}

    LOOP.run_until_complete(run())


@settings(max_examples=100, deadline=None)
@given(stream=torn(), size=st.integers(1, 9))
def test_events_do_not_depend_on_the_cuts(stream: tuple[str, list[bytes]], size: int) -> None:
    kind, chunks = stream
    data = b"".join(chunks)

    def read(pieces: list[bytes]) -> tuple[list[Event], str]:
        events, found = reader(kind), list[Event]()
        try:
            for piece in pieces:
                for event in events.push(piece):
                    found.append(event)
                if events.done:
                    break
            found += events.end()
        except HeadraceError as error:
            return found, type(error).__name__
        return found, ""

    whole, whole_error = read([data])
    cut, cut_error = read([data[at : at + size] for at in range(0, len(data), size)])
    if kind in ("anthropic", "bedrock"):  # `Started` has the time
        whole, cut = whole[1:], cut[1:]
    if whole_error == cut_error == "":
        assert whole == cut
