"""Ordered rules: the first whose conditions all hold decides, and every one can say why not.

A condition is a function of the facts that gives a reason where it does not hold. Cheap ones come
first, so a text is only classified, counted or looked up a budget for where the rest holds.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from headrace.config import RuleSettings
from headrace.errors import ConfigError
from headrace.gateway.routing.facts import Facts

Condition: TypeAlias = Callable[[Facts], Awaitable[str]]
"""Why it does not hold; empty = it does."""
_NANO = Decimal(10) ** 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Ask this route."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Say this; no model is asked."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Deny:
    """Refuse."""

    reason: str


Action: TypeAlias = Use | Answer | Deny


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    name: str
    conditions: tuple[Condition, ...]
    action: Action


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What became of a request, and why."""

    action: Action
    rule: str
    """Empty = none matched."""
    version: str
    """Of the configuration that decided."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """Rules before, and why they do not match."""

    @property
    def told(self) -> str:
        """The decision as a sentence."""
        match self.action:
            case Use():
                what = f"uses {self.action.name}"
            case Answer():
                what = "is answered without a model"
            case Deny():
                what = f"is refused: {self.action.reason}"
        why = f"rule {self.rule!r}" if self.rule else "no rule matches"
        return f"the request {what} ({why}, configuration {self.version})"


async def decide(facts: Facts, rules: Sequence[Rule], *, default: Action, version: str) -> Decision:
    """The first rule that matches, else the default."""
    passed_over: list[tuple[str, str]] = []
    for rule in rules:
        why_not = await _why_not(facts, rule)
        if not why_not:
            return Decision(
                action=rule.action,
                rule=rule.name,
                version=version,
                passed_over=tuple(passed_over),
            )
        passed_over.append((rule.name, why_not))
    return Decision(action=default, rule="", version=version, passed_over=tuple(passed_over))


def parse_rule(settings: RuleSettings, *, where: str, number: int, min_confidence: float) -> Rule:
    """A rule from its settings.

    Args:
        settings: As written.
        where: Its dotted key, for errors.
        number: From 1; its name where it has none.
        min_confidence: Of a label that is believed.

    Raises: ConfigError.
    """
    s = settings
    conditions: list[Condition] = []
    for name in ("org", "team", "user", "feature"):
        allowed: tuple[str, ...] = getattr(s, name)
        if allowed:
            conditions.append(_caller_is(name, allowed))
    if s.data_class:
        conditions.append(_has_class(s.data_class))
    if s.tools is not None:
        conditions.append(_flag("tools", wanted=s.tools))
    if s.images is not None:
        conditions.append(_flag("images", wanted=s.images))
    if s.text:
        conditions.append(_text_has(s.text, where))
    if s.min_prompt_tokens or s.max_prompt_tokens:
        conditions.append(_tokens(s.min_prompt_tokens, s.max_prompt_tokens, where))
    if s.language:
        conditions.append(_language(s.language))
    if s.label:
        conditions.append(_label(s.label, min_confidence))
    if s.budget_below_usd:
        conditions.append(_budget(s.budget_below_usd, where))
    return Rule(
        name=s.name or f"rule {number}", conditions=tuple(conditions), action=_action(s, where)
    )


async def _why_not(facts: Facts, rule: Rule) -> str:
    for condition in rule.conditions:
        reason = await condition(facts)
        if reason:
            return reason
    return ""


def _action(s: RuleSettings, where: str) -> Action:
    given = [name for name in ("use", "answer", "deny") if getattr(s, name)]
    if len(given) != 1:
        has = " and ".join(given) or "none"
        raise ConfigError(f"{where} needs exactly one of use, answer and deny; it has {has}")
    if s.use:
        return Use(name=s.use)
    return Answer(text=s.answer) if s.answer else Deny(reason=s.deny)


def _caller_is(name: str, allowed: tuple[str, ...]) -> Condition:
    async def holds(facts: Facts) -> str:
        found: str = getattr(facts.caller, name)
        return "" if found in allowed else f"{name} is {found!r}"

    return holds


def _has_class(allowed: tuple[str, ...]) -> Condition:
    async def holds(facts: Facts) -> str:
        found = facts.caller.data_classes
        if found & set(allowed):
            return ""
        return f"data class is {', '.join(sorted(found)) or 'none'}"

    return holds


def _flag(name: str, *, wanted: bool) -> Condition:
    async def holds(facts: Facts) -> str:
        found = bool(getattr(facts, name))
        return "" if found is wanted else f"there are {name if found else f'no {name}'}"

    return holds


def _text_has(pattern: str, where: str) -> Condition:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{where}.text = {pattern!r} is no regular expression: {error}"
        ) from error

    async def holds(facts: Facts) -> str:
        return "" if expression.search(facts.text) else f"{pattern!r} is not in the text"

    return holds


def _tokens(least: int, most: int, where: str) -> Condition:
    if least < 0 or most < 0 or (most and least > most):
        raise ConfigError(
            f"{where}: min_prompt_tokens = {least} and max_prompt_tokens = {most} let nothing "
            "through"
        )

    async def holds(facts: Facts) -> str:
        found = await facts.prompt_tokens()
        return "" if least <= found <= (most or found) else f"the prompt has {found} tokens"

    return holds


def _language(allowed: tuple[str, ...]) -> Condition:
    async def holds(facts: Facts) -> str:
        found = facts.language
        return "" if found in allowed else f"language is {found or 'unsure'}"

    return holds


def _label(allowed: tuple[str, ...], min_confidence: float) -> Condition:
    async def holds(facts: Facts) -> str:
        found = facts.label
        if found.name in allowed and found.probability >= min_confidence:
            return ""
        unsure = "" if found.probability >= min_confidence else ", too unsure"
        return f"label is {found.name!r} ({found.probability:.2f}{unsure})"

    return holds


def _budget(below: str, where: str) -> Condition:
    try:
        dollars = Decimal(below)
    except InvalidOperation:
        dollars = Decimal(-1)
    if not dollars.is_finite() or dollars <= 0:
        raise ConfigError(
            f"{where}.budget_below_usd = {below!r} is not an amount of dollars above 0"
        )
    nanousd = int(dollars * _NANO)

    async def holds(facts: Facts) -> str:
        left = await facts.budget_left()
        if left is None:
            return "no budget of the caller is known"
        return "" if left < nanousd else f"the budget has ${Decimal(left) / _NANO:f} left"

    return holds
