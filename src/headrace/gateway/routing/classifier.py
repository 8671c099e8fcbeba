"""A trained directory → labels for texts, with numpy alone; nothing in it can run code.

`classifier.json` says what the model is and how well it did; `weights.npy` has a row for each
place of `features.bag`, a column for each label and a last row of biases (read with
`allow_pickle=False`). `headrace route train` writes both.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import ConfigError
from headrace.gateway.routing.facts import Label
from headrace.gateway.routing.features import PLACES, bag

FORMAT = "headrace-route-classifier-1"
DESCRIPTION = "classifier.json"
WEIGHTS = "weights.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """Logistic regression over hashed words and letters."""

    labels: tuple[str, ...]
    weights_FL: NDArray[np.float32]
    """F places and the bias, L labels."""
    sha256: str = ""
    """Of both files; empty before they are written."""

    def probabilities(self, text: str) -> NDArray[np.float64]:
        """Of each label, in order; they sum to one."""
        found = bag(text)
        logits_L = self.weights_FL[-1].astype(np.float64)
        if found.places:
            rows_NL = self.weights_FL[found.places].astype(np.float64)
            logits_L = logits_L + np.asarray(found.values) @ rows_NL
        odds_L = np.exp(logits_L - logits_L.max())
        return odds_L / odds_L.sum()

    def __call__(self, text: str) -> Label:
        """The likeliest label."""
        chances_L = self.probabilities(text)
        best = int(chances_L.argmax())
        return Label(self.labels[best], float(chances_L[best]))


def load(directory: Path) -> Classifier:
    """Read a directory. Raises: ConfigError naming what is wrong with it."""
    description, weights = directory / DESCRIPTION, directory / WEIGHTS
    try:
        spelled = description.read_bytes()
        packed = weights.read_bytes()
        said: Any = json.loads(spelled)
        with weights.open("rb") as stream:
            weights_FL = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"{directory} has no classifier that can be read ({error}); make one: "
            "headrace route train LABELS.jsonl --out DIR"
        ) from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ConfigError(f"{description} is not of the format {FORMAT}; train it again")
    labels: list[str] = list(said.get("labels") or [])
    wanted = (PLACES + 1, len(labels))
    if weights_FL.shape != wanted or weights_FL.dtype != np.float32:
        raise ConfigError(
            f"{weights} is {weights_FL.dtype}{list(weights_FL.shape)}, not float32{list(wanted)}; "
            "train it again"
        )
    if not np.isfinite(weights_FL).all():
        raise ConfigError(f"{weights} has weights that are no numbers; train it again")
    return Classifier(
        labels=tuple(labels),
        weights_FL=weights_FL,
        sha256=hashlib.sha256(spelled + packed).hexdigest(),
    )


def save(
    directory: Path,
    *,
    labels: Sequence[str],
    weights_FL: NDArray[np.float32],
    report: Mapping[str, Any],
) -> None:
    """Write a directory, made where it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / WEIGHTS).open("wb") as stream:
        np.save(stream, weights_FL, allow_pickle=False)
    described = {"format": FORMAT, "labels": list(labels), "report": dict(report)}
    (directory / DESCRIPTION).write_text(
        json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
