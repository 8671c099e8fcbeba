"""A late request is asked twice; one wins, the other is cancelled, both are legs."""

import pytest

from headrace.errors import UpstreamError, UserError
from headrace.providers.hedging import Hedged, HedgePolicy
from headrace.providers.metered import Metered
from headrace.testing import Pause, ScriptedBackend
from headrace.types import Backend
from routed import answer, asked, fails, notes, says


def hedged(first: Backend, second: Backend, after_s: float = 0.02) -> Hedged:
    return Hedged(
        ("first", first),
        ("second", second),
        HedgePolicy(after_s=after_s),
        percentile=lambda _: None,
    )


def metered(name: str, backend: ScriptedBackend) -> Metered:
    return Metered("p", name, backend)


async def test_who_is_in_time_is_asked_alone() -> None:
    second = says("second")
    request = asked()
    assert await answer(hedged(says("first"), second, 5).stream(request)) == "first"
    assert not second.requests
    assert not notes(request, "hedge")


async def test_a_late_one_loses_is_cancelled_and_both_are_billed() -> None:
    first, second = says("first", pause_s=30), says("second")
    request = asked()
    stream = hedged(metered("first", first), metered("second", second)).stream(request)
    assert await answer(stream) == "second"
    assert len(first.cancelled) == 1
    assert {leg.model: leg.outcome for leg in request.trail.legs} == {
        "first": "abort",
        "second": "stop",
    }
    assert request.trail.legs[0].usage.prompt_tokens == 7
    assert notes(request, "hedge")[-1] == ("second answered first; the call of first was cancelled")


async def test_a_late_first_that_still_wins_cancels_the_second() -> None:
    first, second = says("first", pause_s=0.1), says("second", pause_s=30)
    assert await answer(hedged(first, second).stream(asked())) == "first"
    assert len(second.cancelled) == 1


async def test_one_that_fails_leaves_it_to_the_other() -> None:
    slow = says("second", pause_s=0.1)
    racing = hedged(says("first", pause_s=30), slow)
    assert await answer(racing.stream(asked())) == "second"
    failing = ScriptedBackend([Pause(seconds=0.05), UpstreamError("gone")])
    assert await answer(hedged(failing, slow).stream(asked())) == "second"


async def test_where_both_fail_the_first_error_is_told() -> None:
    with pytest.raises(UpstreamError, match="gone"):
        await answer(hedged(fails(UpstreamError("gone")), says("x"), 5).stream(asked()))


async def test_a_callers_own_error_ends_the_race() -> None:
    first = ScriptedBackend([Pause(seconds=0.05), UserError("bad")])
    second = says("second", pause_s=30)
    with pytest.raises(UserError, match="bad"):
        await answer(hedged(first, second).stream(asked()))
    assert len(second.cancelled) == 1


async def test_leaving_cancels_both() -> None:
    first, second = says("a", "b", pause_s=0.1), says("c", pause_s=30)
    stream = hedged(first, second).stream(asked())
    async for event in stream:
        if getattr(event, "text", ""):
            break
    await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert len(first.cancelled) == len(second.cancelled) == 1


async def test_a_percentile_that_is_not_known_yet_hedges_nothing() -> None:
    second = says("second")
    racing = Hedged(
        ("first", says("first", pause_s=0.05)),
        ("second", second),
        HedgePolicy(percentile=0.95),
        percentile=lambda _: None,
    )
    assert await answer(racing.stream(asked())) == "first"
    assert not second.requests
