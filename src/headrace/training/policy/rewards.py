"""An answer and the record it answers -> a number that code can vouch for.

    exact            1 where the answer is the record's `answer`, spaces around both aside
    numeric          1 where the last number of the answer is the record's (GSM8K: after `####`)
    format:REGEX     1 where the whole answer matches
    model:DIR        the score of a reward model (`headrace train reward`)
    module:function  yours: function(answer: str, record: Mapping[str, Any]) -> float

A factor may stand before it: `0.2*format:.*####.*`. The reward of an answer is their sum.
"""

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError, DataError
from headrace.training.policy.reward_model import scored_by

Record = Mapping[str, Any]
RewardFunction = Callable[[str, Record], float]

_FACTOR = re.compile(r"([0-9]*\.?[0-9]+)\*(.*)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """A function, what it is called in the log, and how much it counts."""

    name: str
    function: RewardFunction
    factor: float = 1.0


def reward(spec: str) -> Reward:
    """What `--reward` names.

    Raises:
        ConfigError: It names nothing.
    """
    factor, rest = 1.0, spec
    if (found := _FACTOR.fullmatch(spec)) is not None:
        factor, rest = float(found[1]), found[2]
    kind, _, argument = rest.partition(":")
    if rest in _BUILT_IN:
        return Reward(name=rest, function=_BUILT_IN[rest], factor=factor)
    if kind == "format" and argument:
        return Reward(name="format", function=matches(argument), factor=factor)
    if kind == "model" and argument:
        return Reward(name="model", function=scored_by(Path(argument)), factor=factor)
    if kind and argument:
        return Reward(name=argument, function=_imported(kind, argument), factor=factor)
    raise ConfigError(
        f"reward {spec!r} is none of {', '.join(_BUILT_IN)}, format:REGEX, model:DIR and "
        "module:function"
    )


def scores(
    rewards: Sequence[Reward], answers: Sequence[str], records: Sequence[Record]
) -> NDArray[np.float64]:
    """Every reward of every answer, `[answers, rewards]`, factors not yet applied.

    Raises:
        DataError: A reward that is no finite number, or a function that raised.
    """
    found = np.zeros((len(answers), len(rewards)))
    for place, (answer, record) in enumerate(zip(answers, records, strict=True)):
        for column, one in enumerate(rewards):
            found[place, column] = _checked(one, answer, record)
    return found


def exact(answer: str, record: Record) -> float:
    """1 where the answer is the record's, spaces around both aside."""
    return float(answer.strip() == _expected(record).strip())


def numeric(answer: str, record: Record) -> float:
    """1 where the last number of the answer is the record's."""
    expected = number(_expected(record))
    if expected is None:
        raise DataError(f"the reward numeric needs a number in `answer`, not {record['answer']!r}")
    return float(number(answer) == expected)


def number(text: str) -> Decimal | None:
    """What a text comes to: the number after the last `####`, else the last one in it."""
    _, marked, after = text.rpartition("####")
    found = [match for match in _NUMBER.findall(after if marked else text) if match.strip()]
    if not found:
        return None
    chosen = found[0] if marked else found[-1]
    try:
        return Decimal(re.sub(r"[,$\s]", "", chosen))
    except InvalidOperation:  # pragma: no cover - the pattern is a number's
        return None


def matches(pattern: str) -> RewardFunction:
    """1 where the whole answer matches; a dot is any character, line ends too.

    Raises:
        ConfigError: It is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"format:{pattern} is no regular expression: {error}") from error
    return lambda answer, record: float(compiled.fullmatch(answer) is not None)


_BUILT_IN: Mapping[str, RewardFunction] = {"exact": exact, "numeric": numeric}


def _expected(record: Record) -> str:
    answer = record.get("answer")
    if not isinstance(answer, str | int | float):
        raise DataError(
            f"this reward compares with the record's `answer`, and there is none in {dict(record)}"
        )
    return str(answer)


def _imported(module: str, name: str) -> RewardFunction:
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"reward {module}:{name} cannot be imported ({error}); is its directory on PYTHONPATH?"
        ) from error
    if not callable(function):
        raise ConfigError(f"reward {module}:{name} is a {type(function).__name__}, no function")
    return cast("RewardFunction", function)


def _checked(one: Reward, answer: str, record: Record) -> float:
    try:
        value = float(one.function(answer, record))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"reward {one.name} raised {error!r} on the answer {answer[:80]!r}"
        ) from error
    if not math.isfinite(value):
        raise DataError(f"reward {one.name} gave {value} for the answer {answer[:80]!r}")
    return value
