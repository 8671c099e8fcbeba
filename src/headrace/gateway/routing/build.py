"""Settings → the rules of their routes, compiled.

Everything that cannot be is refused here, at the start: a rule that names no route, a language or
label that there is not, an expression that is none.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.config import RouteSettings, Settings
from headrace.errors import ConfigError
from headrace.gateway.routing.facts import Label, Sources
from headrace.gateway.routing.rules import Rule, Use, parse_rule
from headrace.gateway.routing.version import config_version
from headrace.types import Caller, ChatRequest, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """The rules of one route."""

    name: str
    rules: tuple[Rule, ...]
    sources: Sources
    version: str

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of routes that the rules use."""
        return tuple(dict.fromkeys(r.action.name for r in self.rules if isinstance(r.action, Use)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The rules of a configuration."""

    version: str
    routes: Mapping[str, Compiled]


def compile_routes(
    settings: Settings,
    names: Mapping[str, tuple[Target, ...]],
    *,
    local: str = "",
    render_tokens: Callable[[ChatRequest], int] | None = None,
    budget_left: Callable[[Caller], Awaitable[int | None]] | None = None,
) -> Plan:
    """The rules of every route that has some.

    Args:
        settings: Routes.
        names: What is served -> the models that it may ask.
        local: Name of the local model; empty = there is none.
        render_tokens: Its renderer's count of a prompt.
        budget_left: As `Sources.budget_left`.

    Raises:
        ConfigError: A rule that cannot be.
        MissingExtra: A language rule without py3langid.
    """
    classifiers = {
        name: _classifier(name, route)
        for name, route in settings.routes.items()
        if route.classifier or any(rule.label for rule in route.rules)
    }
    version = config_version(settings, {name: made[1] for name, made in classifiers.items()})
    compiled: dict[str, Compiled] = {}
    for name, route in settings.routes.items():
        if not route.rules:
            continue
        rules = _rules(name, route, names)
        made = Compiled(
            name=name,
            rules=rules,
            sources=Sources(
                render_tokens=None,
                budget_left=budget_left,
                identify=_languages(name, route),
                classify=classifiers[name][0] if name in classifiers else None,
            ),
            version=version,
        )
        reached = [target for other in (name, *made.uses) for target in names[other]]
        if any(not target.provider and target.model == local for target in reached):
            sources = replace(made.sources, render_tokens=render_tokens)
            made = replace(made, sources=sources)
        compiled[name] = made
    return Plan(version=version, routes=compiled)


def _rules(
    name: str, route: RouteSettings, names: Mapping[str, tuple[Target, ...]]
) -> tuple[Rule, ...]:
    made: list[Rule] = []
    for number, settings in enumerate(route.rules, 1):
        where = f"routes.{name}.rules[{number - 1}]"
        rule = parse_rule(
            settings, where=where, number=number, min_confidence=route.classifier_confidence
        )
        if isinstance(rule.action, Use) and rule.action.name not in names:
            raise ConfigError(
                f"{where}.use = {rule.action.name!r} is not served; there is: {', '.join(names)}"
            )
        if any(before.name == rule.name for before in made):
            raise ConfigError(f"{where}.name = {rule.name!r} is another rule's; name it otherwise")
        made.append(rule)
    return tuple(made)


def _languages(name: str, route: RouteSettings) -> Callable[[str], tuple[str, float]] | None:
    wanted = {code for rule in route.rules for code in rule.language}
    if not wanted:
        return None
    from headrace.data.filters.language import identify, known_languages

    unknown = sorted(wanted - known_languages())  # reads the model, so no request waits for it
    if unknown:
        raise ConfigError(
            f"routes.{name}.rules: language {', '.join(unknown)} is not known; known are "
            f"{', '.join(sorted(known_languages()))}"
        )
    return identify


def _classifier(name: str, route: RouteSettings) -> tuple[Callable[[str], Label], str]:
    if not route.classifier:
        raise ConfigError(
            f"routes.{name}.rules: `label` needs the route's `classifier`, a directory that "
            "headrace route train wrote"
        )
    if not 0 <= route.classifier_confidence <= 1:
        raise ConfigError(
            f"routes.{name}.classifier_confidence = {route.classifier_confidence} is not in 0 to 1"
        )
    from headrace.gateway.routing.classifier import load

    try:
        made = load(Path(route.classifier).expanduser())
    except ConfigError as error:
        raise ConfigError(f"routes.{name}.classifier: {error.message}") from error
    wanted = {label for rule in route.rules for label in rule.label}
    unknown = sorted(wanted - set(made.labels))
    if unknown:
        raise ConfigError(
            f"routes.{name}.rules: label {', '.join(unknown)} is not one of the classifier's: "
            f"{', '.join(made.labels)}"
        )
    return made, made.sha256
