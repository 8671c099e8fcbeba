"""Stop strings are found the same way however the text is cut, and nothing is held too long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidParameter
from headrace.tokens import StopMatcher

_letters = st.text(alphabet="abc", max_size=12)
_stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3).map(tuple)


def _slow(text: str, stops: tuple[str, ...], *, include: bool) -> tuple[str, str | None]:
    """The rule said plainly: the shortest prefix that ends with a stop string, the longest one."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@settings(max_examples=100, deadline=None)
@given(text=_letters, stops=_stops, include=st.booleans(), data=st.data())
def test_any_cut_is_the_plain_rule(
    text: str, stops: tuple[str, ...], include: bool, data: st.DataObject
) -> None:
    matcher = StopMatcher(stops, include=include)
    said, matched, at = "", None, 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        result = matcher.push(text[at : at + size])
        at += size
        said, matched = said + result.text, result.matched
        if matched is None:
            held = text[len(said) : at]
            assert held == "" or any(stop.startswith(held) for stop in stops)
    assert (said + matcher.flush(), matched) == _slow(text, stops, include=include)


def test_the_longest_of_those_that_complete_at_once() -> None:
    result = StopMatcher(("bc", "abc", "c"), include=False).push("xabc")
    assert (result.text, result.matched) == ("x", "abc")


def test_nothing_follows_a_match() -> None:
    matcher = StopMatcher(("\n",), include=True)
    assert matcher.push("a\nb").text == "a\n"
    assert matcher.push("c").text == ""
    assert matcher.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="empty"):
        StopMatcher(("a", ""), include=False)
