"""The worker's decision about stop strings is the one that the client's text shows."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.stops import StopWatch
from headrace.tokens import Tokenizer, train_bpe
from headrace.types import SamplingParams

TEXT = "the stop is near, the end is here. Ende gut, alles gut — żółw 🐢\n\nSTOP"


@cache
def tokenizer() -> Tokenizer:
    return train_bpe([TEXT] * 20, vocab_size=300, special_tokens=["<|end|>"])


def first_stop(ids: list[int], stops: tuple[str, ...], min_tokens: int) -> tuple[int, str] | None:
    """The obvious twin: decode every prefix whole, look for any stop past what is not searched."""
    unsearched = len(tokenizer().decode(ids[: max(0, min_tokens - 1)]).rstrip("\ufffd"))
    for count in range(max(1, min_tokens), len(ids) + 1):
        text = tokenizer().decode(ids[:count]).rstrip("\ufffd")[unsearched:]
        found = [
            (text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text
        ]
        if found:
            return count, min(found)[2]
    return None


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from(["the ", "stop", "st", "op", "🐢", "ż", "\n", "end", "S"])).map(
        "".join
    ),
    stops=st.lists(
        st.sampled_from(["stop", "top", "the end", "🐢", "\n\n", "ż🐢", "s"]),
        min_size=1,
        max_size=3,
    ).map(tuple),
    min_tokens=st.integers(0, 6),
    data=st.data(),
)
def test_the_decision_is_that_of_the_whole_text(
    text: str, stops: tuple[str, ...], min_tokens: int, data: st.DataObject
) -> None:
    ids = tokenizer().encode(text)
    watch = StopWatch(tokenizer(), SamplingParams(stop=stops, min_tokens=min_tokens))
    want = first_stop(ids, stops, min_tokens)
    for at, token in enumerate(ids):
        matched = watch.push([token])
        if matched is not None:
            assert want == (at + 1, matched)
            return
    assert want is None


def test_several_ids_at_once() -> None:
    ids = tokenizer().encode("the stop is near")
    assert StopWatch(tokenizer(), SamplingParams(stop=("stop",))).push(ids) == "stop"
    assert StopWatch(tokenizer(), SamplingParams(stop=("near!",))).push(ids) is None
