"""Small first: a larger model is asked where the smaller one's answer fails a check.

Invariants: nothing of an answer is shown before all its checks have passed; the last model's answer
is shown as it comes, unchecked; every call is a leg and is paid. What the small model cannot carry
(a parameter, a length) or does not answer goes to the next, too.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from headrace.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    HeadraceError,
    ServiceError,
    TemplateError,
    UnsupportedParameter,
)
from headrace.providers.checks import Check
from headrace.providers.resilience import closing
from headrace.types import (
    Backend,
    ChatRequest,
    Event,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    collect,
)

_PASSED_ON = (ServiceError, UnsupportedParameter, ContextLengthExceeded, TemplateError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """One model of a cascade."""

    name: str
    backend: Backend


class Cascade:
    """A `Backend` over tiers, small to large."""

    def __init__(self, tiers: Sequence[Tier], checks: Sequence[Check]) -> None:
        self._tiers = tuple(tiers)
        self._checks = tuple(checks)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        *small, large = self._tiers
        for at, tier in enumerate(small):
            following = self._tiers[at + 1].name
            try:
                events, failure = await self._tried(tier, request)
            except DeadlineExceeded:
                raise
            except _PASSED_ON as error:
                self._note(request, tier.name, following, f"did not answer: {_said(error)}")
                continue
            if not failure:
                specs = ", ".join(check.spec for check in self._checks)
                request.trail.note(
                    "cascade", f"the answer of {tier.name} passed: {specs}", answered=tier.name
                )
                for event in events:
                    yield event
                return
            self._note(request, tier.name, following, f"failed a check: {failure}")
        async with closing(large.backend.stream(request)) as stream:
            async for event in stream:
                yield event

    async def _tried(self, tier: Tier, request: ChatRequest) -> tuple[list[Event], str]:
        """All events of a tier's answer, and why it may not be shown."""
        added = request.sampling.logprobs is None and any(c.needs_logprobs for c in self._checks)
        asked = request
        if added:
            asked = replace(request, sampling=replace(request.sampling, logprobs=0))
        events: list[Event] = []
        async with closing(tier.backend.stream(asked)) as stream:
            async for event in stream:
                events.append(event)
        collected = await collect(_replayed(events))
        for choice in collected.choices:
            for check in self._checks:
                failure = check.judge(request, choice)
                if failure:
                    return events, f"{check.spec}: {failure}"
        return [_without_logprobs(event) for event in events] if added else events, ""

    def _note(self, request: ChatRequest, name: str, following: str, why: str) -> None:
        request.trail.note(
            "cascade",
            f"{name} {why}; {following} is asked",
            failed=name,
            escalated_to=following,
        )


def _said(error: HeadraceError) -> str:
    return error.message[:300]


def _without_logprobs(event: Event) -> Event:
    if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
        return replace(event, logprobs=())
    return event


async def _replayed(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
