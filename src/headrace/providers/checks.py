"""What a cascade asks of an answer before it is shown: a spec in the settings → a check.

| spec | an answer fails where |
|---|---|
| `empty` | it has neither text nor a tool call |
| `refusal` | it begins as refusals do (English), or was filtered |
| `cut` | it ended at the limit of tokens |
| `format` | the request asked for JSON, or a schema, and it is not |
| `min_chars:N` | its text is shorter, and it calls no tool |
| `logprob:X` | the mean log-probability of its tokens is below X, or is not known |
| `matches:REGEX` | the expression is not found in its text |
| `lacks:REGEX` | it is |

Every choice of an answer must pass every check. What cannot be checked fails.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.errors import ConfigError
from headrace.types import ChatRequest, Choice, FinishReason, FormatKind

Judge = Callable[[ChatRequest, Choice], str]
"""Why a choice fails; empty = it does not."""

_REFUSALS = re.compile(
    r"\s*(?:i(?:['’]m| am) (?:very |so |really )?sorry\b|sorry,? (?:but )?i\b|i apologi[sz]e\b"
    r"|(?:unfortunately,? )?i (?:can(?:no|['’])t|can not|won['’]t|will not)\b"
    r"|(?:unfortunately,? )?i am (?:not able|unable)\b"
    r"|i['’]m (?:not able|unable)\b|as an ai\b"
    r"|i do(?:n['’]t| not) (?:know|have (?:access|enough)))",
    re.IGNORECASE,
)
"""Only at the beginning: an answer may well speak of sorrow later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One of a cascade's."""

    spec: str
    judge: Judge
    needs_logprobs: bool = False


def parse_check(spec: str, *, where: str) -> Check:
    """A check from its spec. Raises: ConfigError naming `where`."""
    name, colon, argument = spec.partition(":")
    plain = _PLAIN.get(name)
    if plain is not None and not colon:
        return Check(spec=spec, judge=plain)
    match name:
        case "min_chars" if argument.isdecimal():
            return Check(spec=spec, judge=_min_chars(int(argument)))
        case "logprob" if _number(argument) is not None:
            return Check(spec=spec, judge=_logprob(float(argument)), needs_logprobs=True)
        case "matches" | "lacks" if argument:
            try:
                expression = re.compile(argument)
            except re.error as error:
                raise ConfigError(
                    f"{where}: {spec!r} has no regular expression: {error}"
                ) from error
            return Check(spec=spec, judge=_found(expression, wanted=name == "matches"))
        case _:
            raise ConfigError(
                f"{where}: {spec!r} is no check; there is: {', '.join(_PLAIN)}, min_chars:N, "
                "logprob:X, matches:REGEX, lacks:REGEX"
            )


def _empty(_: ChatRequest, choice: Choice) -> str:
    return "" if choice.text.strip() or choice.tool_calls else "it says nothing"


def _refusal(_: ChatRequest, choice: Choice) -> str:
    if choice.finish is FinishReason.CONTENT_FILTER:
        return "it was filtered"
    return "it refuses" if _REFUSALS.match(choice.text) else ""


def _cut(_: ChatRequest, choice: Choice) -> str:
    return "it is cut at the limit of tokens" if choice.finish is FinishReason.LENGTH else ""


def _format(request: ChatRequest, choice: Choice) -> str:
    if request.format.kind is FormatKind.TEXT or choice.tool_calls:
        return ""
    try:
        found: object = json.loads(choice.text)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if request.format.kind is FormatKind.JSON_OBJECT:
        return "" if isinstance(found, dict) else "it is not a JSON object"
    return _schema_error(request.format.schema or {}, found)


def _schema_error(schema: Any, found: object) -> str:
    # An own registry: the default one fetches what a schema refers to; schemas are the client's.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from referencing import Registry

    try:
        Draft202012Validator(schema, registry=Registry()).validate(found)
    except ValidationError as error:
        return f"it does not fit the schema at {error.json_path}"
    except Exception as error:  # noqa: BLE001 - whatever a client's schema makes it raise
        return f"the schema cannot be checked ({type(error).__name__})"
    return ""


def _min_chars(least: int) -> Judge:
    def judge(_: ChatRequest, choice: Choice) -> str:
        size = len(choice.text.strip())
        short = size < least and not choice.tool_calls
        return f"it has {size} characters, fewer than {least}" if short else ""

    return judge


def _logprob(least: float) -> Judge:
    def judge(_: ChatRequest, choice: Choice) -> str:
        if not choice.logprobs:
            return "no log-probabilities came with it"
        mean = sum(token.logprob for token in choice.logprobs) / len(choice.logprobs)
        return "" if mean >= least else f"its mean log-probability is {mean:.3f}, below {least:g}"

    return judge


def _found(expression: "re.Pattern[str]", *, wanted: bool) -> Judge:
    def judge(_: ChatRequest, choice: Choice) -> str:
        found = expression.search(choice.text) is not None
        if found is wanted:
            return ""
        return f"{expression.pattern!r} is {'not ' if wanted else ''}in it"

    return judge


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_PLAIN: dict[str, Judge] = {
    "empty": _empty,
    "refusal": _refusal,
    "cut": _cut,
    "format": _format,
}
