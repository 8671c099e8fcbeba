"""Labelled texts → a classifier and what it is worth: accuracy on texts that it has not seen.

A part of each label's texts is held out; the report is of a model that was trained on the others,
beside the accuracy of always saying the most frequent label. What is saved is trained on all of
them. scikit-learn does the fitting and nothing else: serving needs numpy only.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DataError, MissingExtra
from headrace.gateway.routing.classifier import save
from headrace.gateway.routing.features import PLACES, bag

_FEWEST = 5
"""Texts of each label."""
_NEEDED = "training a router needs scikit-learn: pip install 'headrace[routing]'"


class Example(NamedTuple):
    text: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One label on held-out texts."""

    label: str
    texts: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a classifier is worth."""

    examples: int
    held_out: int
    accuracy: float
    """Of held-out texts that get their label."""
    majority_accuracy: float
    """Of saying the most frequent label each time."""
    labels: tuple[Score, ...]
    seed: int


def read_examples(path: Path) -> list[Example]:
    """JSON Lines of `{"text": ..., "label": ...}`. Raises: DataError naming the line."""
    found: list[Example] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict) or set(cast("dict[str, Any]", row)) != {"text", "label"}:
            raise DataError(f'{path}:{number} is not {{"text": ..., "label": ...}}')
        text, label = row["text"], row["label"]
        if not isinstance(text, str) or not isinstance(label, str) or not label.strip():
            raise DataError(f"{path}:{number}: text and label must be strings, label not empty")
        found.append(Example(text, label))
    return found


def train(
    examples: Sequence[Example], directory: Path, *, held_out: float = 0.2, seed: int = 0
) -> Report:
    """Train, measure, save.

    Args:
        examples: At least five of each of at least two labels.
        directory: Where the classifier is written.
        held_out: Part of each label's texts that measures it, 0.05 to 0.5.
        seed: Of the split.

    Raises:
        DataError: Too few examples.
        MissingExtra: No scikit-learn.
    """
    if not 0.05 <= held_out <= 0.5:
        raise DataError(f"held_out = {held_out} is not in 0.05 to 0.5")
    counts = Counter(example.label for example in examples)
    few = sorted(label for label, count in counts.items() if count < _FEWEST)
    if len(counts) < 2 or few:
        raise DataError(
            f"a classifier needs two labels, each with {_FEWEST} texts; there are {len(counts)} "
            f"labels{', with too few of ' + ', '.join(few) if few else ''}"
        )
    labels = sorted(counts)
    features = _matrix([example.text for example in examples])
    wanted = np.array([labels.index(example.label) for example in examples])
    learn, test = _split(wanted, held_out, seed)
    guessed = _fit(features[learn], wanted[learn]).predict(features[test])
    report = _report(labels, wanted[test], guessed, examples=len(examples), seed=seed)
    save(
        directory,
        labels=labels,
        weights_FL=_weights(_fit(features, wanted), len(labels)),
        report=asdict(report),
    )
    return report


def _matrix(texts: Sequence[str]) -> Any:
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        raise MissingExtra(_NEEDED) from None

    bags = [bag(text) for text in texts]
    starts = np.cumsum([0, *(len(found.places) for found in bags)])
    places = np.array([place for found in bags for place in found.places], dtype=np.int64)
    values = np.array([value for found in bags for value in found.values])
    return csr_matrix((values, places, starts), shape=(len(texts), PLACES))


def _split(wanted: NDArray[Any], held_out: float, seed: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    test: list[int] = []
    for label in np.unique(wanted):
        rows = draw.permutation(np.flatnonzero(wanted == label))
        test += [int(row) for row in rows[: max(1, round(held_out * len(rows)))]]
    chosen = np.isin(np.arange(len(wanted)), test)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _fit(features: Any, wanted: NDArray[Any]) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtra(_NEEDED) from None
    # Rare labels count as much as frequent ones: a request's way should not depend on how many
    # examples somebody happened to write.
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(features, wanted)


def _weights(model: Any, labels: int) -> NDArray[np.float32]:
    rows_LF, biases_L = model.coef_, model.intercept_
    if labels == 2:  # one row, of the second label's odds
        rows_LF = np.vstack([np.zeros_like(rows_LF), rows_LF])
        biases_L = np.concatenate([[0.0], biases_L])
    return np.vstack([rows_LF.T, biases_L[None]]).astype(np.float32)


def _report(
    labels: Sequence[str], wanted: NDArray[Any], guessed: NDArray[Any], *, examples: int, seed: int
) -> Report:
    scores: list[Score] = []
    for at, label in enumerate(labels):
        right = int(((wanted == at) & (guessed == at)).sum())
        texts, said = int((wanted == at).sum()), int((guessed == at).sum())
        precision, recall = right / max(said, 1), right / max(texts, 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-12)
        scores.append(Score(label=label, texts=texts, precision=precision, recall=recall, f1=f1))
    return Report(
        examples=examples,
        held_out=len(wanted),
        accuracy=float((wanted == guessed).mean()),
        majority_accuracy=max(score.texts for score in scores) / len(wanted),
        labels=tuple(scores),
        seed=seed,
    )
