"""Frames survive any cutting of the stream; anything else is an error, never a crash or a guess."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config import EngineSettings, ModelSettings
from headrace.errors import HeadraceError
from headrace.types import FinishReason, SamplingParams, TokenEvent, TokenLogprob, Usage
from headrace.wire.frames import (
    Beat,
    Cancel,
    Configure,
    Drain,
    Events,
    Fatal,
    GetStats,
    Ready,
    Refused,
    Stats,
    Submit,
    ToClient,
    ToWorker,
    client_reader,
    encode,
    worker_reader,
)

IDS = st.text(max_size=12)
TOKENS = st.lists(st.integers(0, 2**31), max_size=6).map(tuple)
FINITE = st.floats(allow_nan=False)
LOGPROBS = st.builds(
    TokenLogprob,
    token=st.integers(0, 2**20),
    logprob=FINITE,
    top=st.lists(st.tuples(st.integers(0, 2**20), FINITE), max_size=3).map(tuple),
)
SAMPLING = st.builds(
    SamplingParams,
    temperature=FINITE,
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
    logit_bias=st.lists(st.tuples(st.integers(0, 2**20), FINITE), max_size=3).map(tuple),
    stop=st.lists(st.text(min_size=1, max_size=4), max_size=3).map(tuple),
    stop_token_ids=TOKENS,
    logprobs=st.none() | st.integers(0, 20),
    given=st.frozensets(st.sampled_from(["temperature", "top_p"])),
)
EVENTS = st.builds(
    TokenEvent,
    index=st.integers(0, 127),
    tokens=TOKENS,
    logprobs=st.lists(LOGPROBS, max_size=3).map(tuple),
    prompt_logprobs=st.none() | st.lists(st.none() | LOGPROBS, max_size=3).map(tuple),
    finish=st.none() | st.sampled_from(FinishReason),
    stop=st.none() | st.text(max_size=4) | st.integers(0, 2**20),
    usage=st.none() | st.builds(Usage, prompt_tokens=st.integers(0, 2**40)),
    error=st.none() | st.text(max_size=9),
)
TO_WORKER: st.SearchStrategy[ToWorker] = st.one_of(
    st.builds(
        Configure,
        path=IDS,
        model=st.just(ModelSettings()),
        engine=st.just(EngineSettings(threads=3)),
        drain_s=FINITE,
    ),
    st.builds(Submit, id=IDS, prompt=TOKENS, sampling=SAMPLING, salt=IDS),
    st.builds(Cancel, id=IDS),
    st.builds(GetStats, number=st.integers(0, 9)),
    st.builds(Drain, drain_s=FINITE),
)
TO_CLIENT: st.SearchStrategy[ToClient] = st.one_of(
    st.builds(Events, events=st.lists(st.tuples(IDS, EVENTS), max_size=4)),
    st.builds(Refused, id=IDS, code=IDS, message=IDS, param=st.none() | IDS),
    st.builds(Stats, number=st.integers(0, 9), values=st.dictionaries(IDS, FINITE, max_size=3)),
    st.builds(Fatal, code=IDS, message=IDS),
    st.just(Beat()),
    st.builds(
        Ready,
        pid=st.integers(1, 2**22),
        vocab_size=st.integers(1, 2**20),
        context_tokens=st.integers(1, 2**20),
        fingerprint=IDS,
        dtype=IDS,
        device=IDS,
        threads=st.integers(1, 64),
        load_s=FINITE,
    ),
)


@settings(max_examples=80, deadline=None)
@given(frames=st.lists(TO_WORKER, max_size=5), cut=st.integers(1, 40))
def test_to_worker_any_cut(frames: list[ToWorker], cut: int) -> None:
    data = b"".join(encode(frame) for frame in frames)
    reader = worker_reader()
    got = [f for at in range(0, len(data), cut) for f in reader.push(data[at : at + cut])]
    assert got == frames
    assert reader.pending_bytes == 0


@settings(max_examples=80, deadline=None)
@given(frames=st.lists(TO_CLIENT, max_size=5), cut=st.integers(1, 40))
def test_to_client_any_cut(frames: list[ToClient], cut: int) -> None:
    data = b"".join(encode(frame) for frame in frames)
    reader = client_reader()
    got = [f for at in range(0, len(data), cut) for f in reader.push(data[at : at + cut])]
    assert got == frames
    assert reader.pending_bytes == 0


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=60))
def test_garbage_is_an_error_or_a_frame(payload: bytes) -> None:
    data = len(payload).to_bytes(4, "big") + payload
    with contextlib.suppress(HeadraceError):
        assert len(worker_reader().push(data)) == 1


def test_a_length_beyond_the_limit_is_refused_before_it_is_awaited() -> None:
    with pytest.raises(HeadraceError, match="announces 4294967295 bytes"):
        worker_reader().push(b"\xff\xff\xff\xff")


def test_each_side_refuses_the_other_sides_frames() -> None:
    with pytest.raises(HeadraceError, match="malformed"):
        client_reader().push(encode(Cancel(id="a")))


def test_the_start_of_a_frame_waits_for_its_end() -> None:
    data = encode(Cancel(id="a"))
    reader = worker_reader()
    assert reader.push(data[:-1]) == []
    assert reader.pending_bytes == len(data) - 1
    assert reader.push(data[-1:]) == [Cancel(id="a")]
