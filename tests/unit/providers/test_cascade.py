"""Small first: what is shown, what escalates, what is paid."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from headrace.errors import ConfigError, UnsupportedParameter, UpstreamError, UserError
from headrace.providers.cascade import Cascade, Tier
from headrace.providers.checks import parse_check
from headrace.providers.metered import Metered
from headrace.testing import ScriptedBackend, Step, reply
from headrace.types import (
    Backend,
    ChatRequest,
    Choice,
    CompletionRequest,
    FinishReason,
    FormatKind,
    ResponseFormat,
    SamplingParams,
    TextDelta,
)
from routed import answer, asked, fails, notes, says

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def cascade(small: Backend, large: Backend, *checks: str) -> Cascade:
    specs = checks or ("empty", "refusal", "format")
    return Cascade(
        [Tier(name="small", backend=small), Tier(name="large", backend=large)],
        [parse_check(spec, where="routes.r.checks") for spec in specs],
    )


async def test_a_good_small_answer_is_the_answer() -> None:
    large = says("large")
    request = asked()
    assert await answer(cascade(says("small"), large).stream(request)) == "small"
    assert not large.requests
    assert notes(request, "cascade") == ["the answer of small passed: empty, refusal, format"]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("empty", "  "),
        ("refusal", "I'm sorry, but I can't help with that."),
        ("refusal", "As an AI language model, I"),
        ("min_chars:20", "too short"),
        ("matches:\\d", "no digit"),
        ("lacks:(?i)maybe", "Maybe so"),
        ("logprob:-0.4", "unsure"),
    ],
)
async def test_nothing_of_an_answer_that_fails_is_shown(check: str, said: str) -> None:
    request = asked()
    small, large = says(*said), says("large")
    seen = [
        event.text
        async for event in cascade(small, large, check).stream(request)
        if isinstance(event, TextDelta)
    ]
    assert seen == ["large"]
    assert notes(request, "cascade")[0].startswith(f"small failed a check: {check}: ")


async def test_both_are_billed() -> None:
    small, large = Metered("", "small", says("")), Metered("p", "large", says("x", "y"))
    request = asked()
    await answer(cascade(small, large).stream(request))
    assert [(leg.model, leg.usage.completion_tokens) for leg in request.trail.legs] == [
        ("small", 1),
        ("large", 2),
    ]


async def test_a_cut_answer_fails_where_that_is_checked() -> None:
    small = ScriptedBackend(lambda request: reply(request, reason=FinishReason.LENGTH))
    assert await answer(cascade(small, says("large"), "cut").stream(asked())) == "large"


@pytest.mark.parametrize(
    ("format", "said", "passes"),
    [
        (ResponseFormat(), "not json", True),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT), "not json", False),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT), "[1]", False),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT), '{"a": 1}', True),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA), '{"a": 1}', True),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA), '{"a": "1"}', False),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA), "{}", False),
        # What cannot be checked fails, and nothing is fetched.
        (
            ResponseFormat(
                kind=FormatKind.JSON_SCHEMA, schema={"$ref": "http://127.0.0.1:9/schema"}
            ),
            "{}",
            False,
        ),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema={"type": 3}), "{}", False),
    ],
)
async def test_an_answer_has_the_form_that_was_asked(
    format: ResponseFormat, said: str, passes: bool
) -> None:
    request = replace(asked(), format=format)
    said_by = await answer(cascade(says(said), says("large")).stream(request))
    assert said_by == (said if passes else "large")


async def test_log_probabilities_are_asked_for_and_not_shown_to_who_did_not() -> None:
    small = says("small")
    stream = cascade(small, says("large"), "logprob:-0.6").stream(asked())
    events = [event async for event in stream if isinstance(event, TextDelta)]
    assert [(event.text, event.logprobs) for event in events] == [("small", ())]
    assert small.requests[0].sampling.logprobs == 0
    request = asked(sampling=SamplingParams(logprobs=2))
    stream = cascade(says("small"), says("large"), "logprob:-0.6").stream(request)
    shown = [event async for event in stream if isinstance(event, TextDelta)]
    assert len(shown[0].logprobs[0].top) == 2


async def test_no_log_probabilities_are_no_good_ones() -> None:
    def without(request: ChatRequest | CompletionRequest) -> Iterable[Step]:
        return reply(replace(request, sampling=replace(request.sampling, logprobs=None)))

    small = ScriptedBackend(without)
    assert await answer(cascade(small, says("large"), "logprob:-9").stream(asked())) == "large"


@pytest.mark.parametrize("error", [UpstreamError("down"), UnsupportedParameter("no tools here")])
async def test_what_the_small_one_cannot_do_is_for_the_large_one(error: Exception) -> None:
    request = asked()
    assert await answer(cascade(fails(error), says("large")).stream(request)) == "large"
    assert notes(request, "cascade") == [f"small did not answer: {error}; large is asked"]


async def test_a_request_that_is_wrong_is_wrong_for_both() -> None:
    with pytest.raises(UserError, match="bad"):
        await answer(cascade(fails(UserError("bad")), says("large")).stream(asked()))


@pytest.mark.parametrize(
    "spec", ["", "nothing", "min_chars", "min_chars:x", "logprob:nan", "matches:(", "empty:1"]
)
def test_a_check_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"routes\.r\.checks"):
        parse_check(spec, where="routes.r.checks")


def test_json_that_nests_without_end_is_not_json() -> None:
    deep = Choice(
        index=0,
        text="[" * 200_000,
        reasoning="",
        tool_calls=(),
        finish=FinishReason.STOP,
        stop=None,
        token_ids=(),
        logprobs=(),
    )
    request = replace(asked(), format=ResponseFormat(kind=FormatKind.JSON_OBJECT))
    assert parse_check("format", where="x").judge(request, deep) == "it is not JSON"
