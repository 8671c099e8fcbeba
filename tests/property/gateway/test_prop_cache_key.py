"""Names of answers: never one for two teams or two requests, always one for the same."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.caching.events import Answer, decode, encode
from headrace.gateway.caching.key import Scope, answer_id
from headrace.types import (
    Caller,
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    ImagePart,
    Leg,
    Message,
    ReasoningDelta,
    ReasoningParams,
    ResponseFormat,
    Role,
    SamplingParams,
    Started,
    TextDelta,
    TextPart,
    TokenText,
    ToolCallDelta,
    ToolChoice,
    ToolSpec,
    Trail,
    Usage,
)

# Few letters, so that what could run together does: ("ab", "c") and ("a", "bc").
short = st.text('ab/\\"\0', max_size=4)
callers = st.builds(
    Caller,
    org=short,
    team=short,
    tenant=short,
    key_id=short,
    user=short,
    feature=short,
    data_classes=st.frozensets(short, max_size=2),
)
messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(Role),
        parts=st.lists(
            st.builds(TextPart, text=short)
            | st.builds(ImagePart, media_type=short, data=st.binary(max_size=3)),
            max_size=2,
        ).map(tuple),
        name=st.none() | short,
    ),
    max_size=3,
).map(tuple)
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.none() | st.integers(0, 3),
    max_tokens=st.none() | st.integers(1, 3),
    stop=st.lists(short, max_size=2).map(tuple),
    given=st.frozensets(st.sampled_from(["temperature", "seed", "n"])),
)
requests = st.builds(
    ChatRequest,
    model=short,
    messages=messages,
    tools=st.lists(
        st.builds(ToolSpec, name=short, parameters=st.dictionaries(short, short, max_size=2)),
        max_size=2,
    ).map(tuple),
    tool_choice=st.sampled_from(ToolChoice),
    sampling=samplings,
    format=st.builds(ResponseFormat, kind=st.sampled_from(FormatKind)),
    reasoning=st.builds(ReasoningParams, effort=st.none() | short),
    caller=callers,
    trace=short,
    deadline_s=st.none() | st.floats(1, 9),
)
scopes = st.builds(Scope, route=short, target=short, release=short, version=short, snapshot=short)


def shaping(request: ChatRequest) -> ChatRequest:
    """What of a request may not differ under one name."""
    who = request.caller
    kept = Caller(org=who.org, team=who.team, tenant=who.tenant, data_classes=who.data_classes)
    return replace(request, model="", caller=kept, trace="", trail=Trail(), deadline_s=None)


@given(requests, requests, scopes, scopes)
def test_one_name_one_request(
    one: ChatRequest, two: ChatRequest, here: Scope, there: Scope
) -> None:
    same = (shaping(one), here) == (shaping(two), there)
    assert (answer_id(one, here) == answer_id(two, there)) is same


@given(requests, scopes, callers)
def test_who_asks_matters_by_organization_team_and_class_alone(
    request: ChatRequest, scope: Scope, other: Caller
) -> None:
    mine = request.caller
    theirs = replace(request, caller=other, trace="another", deadline_s=3.0)
    same = (mine.org, mine.team, mine.tenant, mine.data_classes) == (
        other.org,
        other.team,
        other.tenant,
        other.data_classes,
    )
    assert (answer_id(request, scope) == answer_id(theirs, scope)) is same


@given(requests, scopes, short, short)
def test_no_two_teams_share_a_name(request: ChatRequest, scope: Scope, org: str, team: str) -> None:
    mine, theirs = (
        replace(request, caller=Caller(org=o, team=t)) for o, t in ((org, team), (team, org))
    )
    assert (answer_id(mine, scope) == answer_id(theirs, scope)) is (org == team)


logprobs = st.lists(
    st.builds(
        TokenText,
        token=st.integers(0, 9),
        data=st.binary(max_size=3),
        logprob=st.floats(-9, 0),
        top=st.lists(
            st.tuples(st.integers(0, 9), st.binary(max_size=3), st.floats(-9, 0)), max_size=2
        ).map(tuple),
    ),
    max_size=2,
).map(tuple)
ids = st.lists(st.integers(0, 2**31), max_size=3).map(tuple)
events = st.lists(
    st.builds(
        Started,
        id=short,
        model=short,
        created_s=st.integers(0, 2**40),
        prompt_tokens=st.integers(0, 9),
        prompt_ids=ids,
        seed=st.integers(0, 2**63),
    )
    | st.builds(
        TextDelta, text=st.text(), index=st.integers(0, 3), token_ids=ids, logprobs=logprobs
    )
    | st.builds(ReasoningDelta, text=st.text(), signature=short)
    | st.builds(ToolCallDelta, call=st.integers(0, 3), id=st.none() | short, arguments=st.text())
    | st.builds(
        Finished,
        reason=st.sampled_from(FinishReason),
        stop=st.none() | short | st.integers(0, 9),
        usage=st.none() | st.builds(Usage, prompt_tokens=st.integers(0, 9)),
    ),
    max_size=6,
)
legs = st.lists(
    st.builds(
        Leg,
        provider=short,
        model=short,
        usage=st.builds(Usage, completion_tokens=st.integers(0, 9)),
        outcome=short,
        seconds=st.floats(0, 9),
    ),
    max_size=2,
).map(tuple)


@given(events, legs)
def test_what_is_kept_comes_back(kept: list[Event], made_by: tuple[Leg, ...]) -> None:
    found = decode(encode(Answer(kept, made_by)))
    assert (list(found.events), found.legs) == (kept, made_by)
