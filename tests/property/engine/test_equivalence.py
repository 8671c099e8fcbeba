"""Tiny models: however traffic is cut, cached, preempted and batched, answers are the twin's."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_traffic import EOS, make_core, request, twin, twin_prompt_logprobs
from headrace.engine.core import Generated, gather, generate_all
from headrace.engine.request import EngineRequest
from headrace.types import FinishReason, TokenEvent

FAMILIES = ["qwen3", "llama", "mistral"]
NORMAL = (FinishReason.STOP, FinishReason.LENGTH)
PROMPT = tuple(range(10, 33))
# In float32 the twin and the engine differ by rounding only.
LOGPROB_TOLERANCE = 2e-4


def check(family: str, asked: EngineRequest, found: Generated) -> None:
    """Each choice is its twin's answer; one that was ended early, the beginning of it."""
    for index, choice in enumerate(found.choices):
        solo = twin(family, asked, index)
        if choice.finish in NORMAL:
            assert choice.tokens == solo.tokens
            assert choice.finish is solo.finish
        assert choice.tokens == solo.tokens[: len(choice.tokens)]
        logprobs = [logprob.logprob for logprob in choice.logprobs]
        assert logprobs == pytest.approx(solo.logprobs[: len(logprobs)], abs=LOGPROB_TOLERANCE)


@st.composite
def requests(draw: st.DrawFn, at: int) -> EngineRequest:
    stem = draw(st.sampled_from([(), PROMPT[:8], PROMPT[:13], PROMPT]))
    tail = draw(st.lists(st.integers(0, 3), min_size=0 if stem else 1, max_size=6))
    greedy = draw(st.booleans())
    return request(
        f"r{at}",
        (*stem, *tail),
        seed=draw(st.integers(0, 2)),
        temperature=0.0 if greedy else draw(st.sampled_from([0.6, 1.0])),
        top_p=draw(st.sampled_from([1.0, 0.9])),
        top_k=draw(st.sampled_from([0, 8])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.2])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.3])),
        n=draw(st.sampled_from([1, 1, 2, 3])),
        max_tokens=draw(st.sampled_from([1, 4, 9])),
        min_tokens=draw(st.sampled_from([0, 3])),
        eos_ids=(EOS, 11, 12),
        logprobs=0,
        prompt_logprobs=draw(st.sampled_from([None, None, 2])),
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_traffic_equals_the_twin(family: str, data: st.DataObject) -> None:
    budget = data.draw(st.sampled_from([1, 3, 7, 32]), label="budget")
    core = make_core(
        family,
        blocks=data.draw(st.integers(10, 40), label="blocks"),
        max_batch_tokens=budget,
        max_running=data.draw(st.sampled_from([1, 3, 16])),
        prefix_cache=data.draw(st.booleans()),
        mixed_prefill_tokens=data.draw(st.sampled_from([0, 2])),
    )
    asked: dict[str, EngineRequest] = {}
    events: dict[str, list[TokenEvent]] = defaultdict(list)
    todo = [data.draw(requests(at)) for at in range(data.draw(st.integers(1, 6)))]
    for turn in range(2000):
        if not todo and not core.has_work:
            break
        action = (
            data.draw(st.sampled_from(["step", "step", "submit", "cancel"])) if turn < 40 else ""
        )
        if todo and (action == "submit" or turn >= 40):
            new = todo.pop()
            core.submit(new)
            asked[new.id] = new
        elif action == "cancel" and asked:
            for output in core.cancel(data.draw(st.sampled_from(sorted(asked)))):
                events[output.id].append(output.event)
        else:
            for output in core.step():
                events[output.id].append(output.event)
        core.check_integrity()
    stats = core.stats()
    assert (stats.running, stats.waiting, stats.blocks_used, stats.queued_tokens) == (0, 0, 0, 0)
    assert events.keys() == asked.keys()
    for name, found in events.items():
        answer = gather(found)
        check(family, asked[name], answer)
        if answer.prompt_logprobs is not None:
            solo = twin_prompt_logprobs(family, asked[name])
            assert answer.prompt_logprobs[0] is None
            for mine, true in zip(answer.prompt_logprobs[1:], solo, strict=True):
                assert mine is not None
                assert mine.token == true.token
                assert mine.logprob == pytest.approx(true.logprob, abs=LOGPROB_TOLERANCE)
                assert dict(mine.top) == pytest.approx(dict(true.top), abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 2, 5, 16, 23, 64])
def test_chunked_prefill_is_whole_prefill(family: str, budget: int) -> None:
    asked = request("a", PROMPT, max_tokens=8, logprobs=0)
    core = make_core(family, max_batch_tokens=budget)
    check(family, asked, generate_all(core, [asked])["a"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_hit_is_a_miss(family: str) -> None:
    core = make_core(family)
    for name in ("cold", "warm"):
        asked = request(name, PROMPT, max_tokens=8, logprobs=0)
        found = generate_all(core, [asked])[name]
        check(family, asked, found)
        assert found.usage.cached_tokens == (20 if name == "warm" else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_members_alone(family: str) -> None:
    batch = [
        request(
            str(at), PROMPT[at : 2 * at + 3], seed=at, temperature=0.8, max_tokens=9, logprobs=0
        )
        for at in range(12)
    ]
    for name, found in generate_all(make_core(family), batch).items():
        check(family, batch[int(name)], found)


@pytest.mark.parametrize("family", FAMILIES)
def test_preempted_is_uninterrupted(family: str) -> None:
    core = make_core(family, blocks=9, max_batch_tokens=12)
    batch = [
        request(str(at), range(at, at + 6), seed=at, temperature=0.8, max_tokens=20, logprobs=0)
        for at in range(4)
    ]
    answers = generate_all(core, batch)
    for name, found in answers.items():
        check(family, batch[int(name)], found)
    assert core.stats().counters.preemptions > 0
    assert sum(found.usage.recomputed_tokens for found in answers.values()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_share_the_prompt_and_are_drawn_apart(family: str) -> None:
    asked = request("a", PROMPT, n=5, seed=4, temperature=1.0, max_tokens=8, logprobs=0)
    core = make_core(family)
    found = generate_all(core, [asked])["a"]
    check(family, asked, found)
    assert len({choice.tokens for choice in found.choices}) > 1
    assert found.usage.prompt_tokens == len(PROMPT)
    assert found.usage.cached_tokens == 0
    # 20 of 23 prompt tokens are in full blocks: each further choice runs the last three again.
    assert found.usage.recomputed_tokens == 4 * 3
