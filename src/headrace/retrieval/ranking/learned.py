"""What was learned from questions with known answers: a weigher and a ranker, as plain numbers.

Both are small on purpose. The weigher makes three weights of a question's signals by one matrix and
a softmax; the ranker adds to the fused score what one hidden layer makes of a passage's features
and of the question's signals. They lie in `learned.json` beside this file, with what they were
learned from; `bench/retrieval_learning.py` learns them again.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from headrace.errors import DataError
from headrace.retrieval.ranking.features import FEATURES
from headrace.retrieval.ranking.signals import SIGNALS
from headrace.retrieval.ranking.terms import Floats

PARTS = ("keyword", "vector", "pairs")
"""What the weigher weighs: the two lists, and how much of the question stands word by word."""
_FAR = 3.0
"""Standard deviations beyond which a number says no more: other stores' and embedders' lists may
lie further out than anything learned from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Numbers → how far from usual they are."""

    mean: Floats
    deviation: Floats

    def __call__(self, values: Floats) -> Floats:
        return (values - self.mean) / self.deviation

    def near(self, values: Floats) -> Floats:
        """No further than what was learned from."""
        return np.clip(self(values), -_FAR, _FAR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weigher:
    """Signals → the weight of each part; they add up to 1."""

    scale: Scale
    slope_SP: Floats
    bias_P: Floats

    def weights(self, signals_S: Floats) -> Floats:
        z_P = self.scale.near(signals_S) @ self.slope_SP + self.bias_P
        weight_P = np.exp(z_P - z_P.max())
        return weight_P / weight_P.sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranker:
    """Features of passages and signals of their question → scores."""

    scale: Scale
    signal_scale: Scale
    hidden_FH: Floats
    context_SH: Floats
    bias_H: Floats
    out_H: Floats
    direct_F: Floats

    def scores(self, features_NF: Floats, signals_S: Floats) -> Floats:
        # Not clipped: features lie in 0..1, and the best few lie far from what is usual.
        x_NF = self.scale(features_NF)
        context_H = self.signal_scale.near(signals_S) @ self.context_SH + self.bias_H
        return np.tanh(x_NF @ self.hidden_FH + context_H) @ self.out_H + x_NF @ self.direct_F


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    weigher: Weigher
    ranker: Ranker
    provenance: str
    """What it was learned from."""


@cache
def shipped() -> Learned:
    """What comes with the package."""
    text = resources.files(__package__ or __name__).joinpath("learned.json").read_text("utf-8")
    return parse(text)


def parse(text: str) -> Learned:
    """Read what `bench/retrieval_learning.py` wrote.

    Raises:
        DataError: It was learned with other signals or features than are measured now.
    """
    try:
        values = json.loads(text)
        weigher, ranker = values["weigher"], values["ranker"]
        for what, known in (("signals", SIGNALS), ("features", FEATURES)):
            if tuple(values[what]) != known:
                raise DataError(f"learned with {what} {values[what]}; measured are {list(known)}")
        return Learned(
            weigher=Weigher(
                scale=_scale(weigher["scale"]),
                slope_SP=_array(weigher["slope"], len(SIGNALS), len(PARTS)),
                bias_P=_array(weigher["bias"], len(PARTS)),
            ),
            ranker=_ranker(ranker),
            provenance=values["provenance"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not what bench/retrieval_learning.py writes: {error!r}") from error


def _ranker(values: dict[str, Any]) -> Ranker:
    width = len(values["bias"])
    return Ranker(
        scale=_scale(values["scale"]),
        signal_scale=_scale(values["signal_scale"]),
        hidden_FH=_array(values["hidden"], len(FEATURES), width),
        context_SH=_array(values["context"], len(SIGNALS), width),
        bias_H=_array(values["bias"], width),
        out_H=_array(values["out"], width),
        direct_F=_array(values["direct"], len(FEATURES)),
    )


def _scale(values: dict[str, Any]) -> Scale:
    return Scale(
        mean=np.array(values["mean"], float), deviation=np.array(values["deviation"], float)
    )


def _array(values: Any, *shape: int) -> Floats:
    found = np.array(values, np.float64)
    if found.shape != shape:
        raise DataError(f"an array of shape {found.shape} where {shape} is meant")
    return found
