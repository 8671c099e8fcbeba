"""What nobody knows is null in an answer, never a number that looks like knowledge."""

import json

from headrace.types import Choice, Collected, FinishReason, ModelCard, Started, Usage
from headrace.wire import openai_chat
from headrace.wire.openai_answers import AnswerInfo
from headrace.wire.token_calls import encode_models


def test_a_context_that_no_provider_told_is_null() -> None:
    cards = [
        ModelCard(name="sprout", context_tokens=1024, created_s=1),
        ModelCard(name="large", context_tokens=0, created_s=1),
    ]
    found = json.loads(encode_models(cards))["data"]
    assert [model["max_model_len"] for model in found] == [1024, None]


def test_a_seed_that_no_provider_told_is_null() -> None:
    told = [_answer(None), _answer(0)]
    assert told == [None, 0]


def _answer(seed: int | None) -> object:
    started = Started(id="x", model="m", created_s=1, prompt_tokens=1, seed=seed)
    choice = Choice(
        index=0,
        text="a",
        reasoning="",
        tool_calls=(),
        finish=FinishReason.STOP,
        stop=None,
        token_ids=(),
        logprobs=(),
    )
    collected = Collected(started=started, usage=Usage(), choices=(choice,))
    return json.loads(openai_chat.encode(AnswerInfo(id="c", model="m"), collected))["seed"]
