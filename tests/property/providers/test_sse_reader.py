"""The events do not depend on how the bytes were cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UpstreamError
from headrace.providers.sse import SseReader

DATA = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    events=st.lists(DATA, max_size=6),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    noise=st.sampled_from(["", ": ping", "event: x", "id: 4", "retry: 3"]),
    cuts=st.lists(st.integers(0, 200), max_size=30),
)
def test_any_chunking(events: list[str], newline: str, noise: str, cuts: list[int]) -> None:
    head = [noise] if noise else []
    lines = [line for data in events for line in (*head, f"data: {data}", "")]
    raw = "".join(line + newline for line in lines).encode()
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    reader = SseReader()
    got = [
        event for start, end in itertools.pairwise(edges) for event in reader.push(raw[start:end])
    ]
    assert got == events
    assert not reader.unfinished


def test_several_data_lines_are_one_event() -> None:
    assert SseReader().push(b"data: a\ndata:b\ndata\n\n") == ["a\nb\n"]


def test_unfinished() -> None:
    reader = SseReader()
    assert reader.push(b"data: {") == []
    assert reader.unfinished
    assert reader.push(b"}\n") == []
    assert reader.unfinished
    assert reader.push(b"\n") == ["{}"]
    assert not reader.unfinished


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 200, b"data: " + b"x\ndata: " * 60])
def test_an_event_without_end_is_bounded(raw: bytes) -> None:
    with pytest.raises(UpstreamError, match="larger than 100"):
        SseReader(max_event_bytes=100).push(raw)


def test_not_utf8() -> None:
    with pytest.raises(UpstreamError, match="not UTF-8"):
        SseReader().push(b"data: \xff\n\n")
