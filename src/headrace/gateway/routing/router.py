"""A `Backend` that lets rules decide which other one answers, or that none needs to.

Each decision is a note on the trail: what, by which rule, of which configuration, and why the rules
before it do not match.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from headrace.errors import PermissionDenied
from headrace.gateway.http import closing
from headrace.gateway.routing import canned
from headrace.gateway.routing.facts import Facts, Sources
from headrace.gateway.routing.rules import Answer, Condition, Decision, Deny, Rule, Use, decide
from headrace.types import Backend, ChatRequest, Event


class Router:
    """Over the backends that a route's rules may name."""

    def __init__(
        self,
        name: str,
        rules: Sequence[Rule],
        targets: Mapping[str, Backend],
        *,
        sources: Sources,
        version: str,
    ) -> None:
        """
        Args:
            name: The route's; what answers where no rule matches is `targets[name]`.
            rules: In order.
            targets: Every name that a rule uses, and the route's own.
            sources: Of facts.
            version: Of the configuration.
        """
        self._name = name
        self._rules = tuple(rules)
        self._targets = dict(targets)
        self._sources = sources
        self._version = version

    async def decide(self, request: ChatRequest) -> Decision:
        """Which way a request goes, without sending it."""
        facts = Facts(request, self._sources)
        rules = self._rules
        blocked = canned.why_not(request)
        if blocked:  # a fixed text is no answer to it: those rules are as if they were not there
            rules = tuple(
                replace(rule, conditions=(_never(blocked),))
                if isinstance(rule.action, Answer)
                else rule
                for rule in rules
            )
        return await decide(facts, rules, default=Use(name=self._name), version=self._version)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`. Raises: PermissionDenied where a rule refuses."""
        decision = await self.decide(request)
        note(request, self._name, decision)
        match decision.action:
            case Deny(reason=reason):
                raise PermissionDenied(f"{reason} (rule {decision.rule!r} of {self._name})")
            case Answer(text=text):
                events = canned.said(request, text)
            case Use(name=name):
                events = self._targets[name].stream(request)
        async with closing(events):
            async for event in events:
                yield event


def note(request: ChatRequest, route: str, decision: Decision) -> None:
    """Write a decision on the request's trail."""
    facts: dict[str, str | int | float | bool] = {
        "route": route,
        "rule": decision.rule,
        "config": decision.version,
        "action": type(decision.action).__name__.lower(),
    }
    if isinstance(decision.action, Use):
        facts["use"] = decision.action.name
    if decision.passed_over:
        facts["passed_over"] = "; ".join(f"{rule}: {why}" for rule, why in decision.passed_over)
    request.trail.note("router", f"{route}: {decision.told}", **facts)


def _never(reason: str) -> Condition:
    async def holds(_: Facts) -> str:
        return f"no fixed answer fits: {reason}"

    return holds
