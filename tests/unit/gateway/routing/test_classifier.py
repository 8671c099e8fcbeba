"""Labels → a classifier: measured, saved without code in it, and the same with numpy alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ConfigError, DataError
from headrace.gateway.routing import classifier
from headrace.gateway.routing.features import PLACES, bag
from headrace.gateway.routing.training import Example, read_examples, train

GREETINGS = ("hello", "hi there", "good morning", "hey", "thanks a lot", "thank you", "bye")
HARD = (
    "prove that the sum of two odd numbers is even",
    "derive the gradient of the softmax",
    "prove the theorem by induction",
    "explain why the proof of this lemma fails",
    "derive a closed form of this recurrence",
    "write a formal proof of correctness",
)
CODE = (
    "write a python function that sorts a list",
    "fix this python bug",
    "refactor this function in python",
    "write a unit test for this class",
    "why does this python code raise a type error",
)


def examples() -> list[Example]:
    tails = ("", " please", " now", "!", " for me", " again")
    return [
        Example(text + tail, label)
        for label, texts in (("smalltalk", GREETINGS), ("maths", HARD), ("code", CODE))
        for text in texts
        for tail in tails
    ]


def test_it_is_measured_on_texts_that_it_has_not_seen(tmp_path: Path) -> None:
    report = train(examples(), tmp_path / "made", held_out=0.25, seed=3)
    assert report.examples == 108
    assert report.held_out == sum(score.texts for score in report.labels) == 27
    assert report.accuracy >= 0.9 > 0.5 > report.majority_accuracy
    assert {score.label for score in report.labels} == {"smalltalk", "maths", "code"}
    made = classifier.load(tmp_path / "made")
    assert made("good evening, hello!").name == "smalltalk"
    assert made("please prove this by induction").name == "maths"
    said = json.loads((tmp_path / "made" / "classifier.json").read_text())
    assert said["report"]["accuracy"] == report.accuracy


@pytest.mark.parametrize("labels", [2, 3])
def test_serving_agrees_with_scikit_learn(tmp_path: Path, labels: int) -> None:
    from headrace.gateway.routing.training import _fit, _matrix

    rows = [e for e in examples() if labels == 3 or e.label != "code"]
    train(rows, tmp_path)
    made = classifier.load(tmp_path)
    names = sorted({e.label for e in rows})
    model = _fit(_matrix([e.text for e in rows]), np.array([names.index(e.label) for e in rows]))
    texts = ["hello python", "", "Żółw 🐢", "prove it", "x" * 50_000]
    wanted = model.predict_proba(_matrix(texts))
    found = np.array([made.probabilities(text) for text in texts])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_same_labels_and_seed_make_the_same_report(tmp_path: Path) -> None:
    one, two = (train(examples(), tmp_path / name, seed=5) for name in ("a", "b"))
    assert one == two
    assert train(examples(), tmp_path / "c", seed=6) != one


def test_features_are_a_pure_function_of_the_text() -> None:
    found = bag("Hello, WORLD hello")
    assert found == bag("hello, world hello")
    assert found.places == sorted(set(found.places))
    assert all(0 <= place < PLACES for place in found.places)
    assert sum(value * value for value in found.values) == pytest.approx(1)
    assert bag("") == bag(" \n") or bag("").places == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ('{"text": "x"}', "is not {"),
        ('{"text": "x", "label": "y", "more": 1}', "is not {"),
        ('{"text": "x", "label": " "}', "label not empty"),
        ('{"text": 3, "label": "y"}', "must be strings"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"text": "a", "label": "b"}\n\n' + line)
    with pytest.raises(DataError, match=r"labels\.jsonl:3") as refused:
        read_examples(file)
    assert said in refused.value.message


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 1 labels"):
        train([Example("x", "a")] * 9, tmp_path)
    with pytest.raises(DataError, match="too few of b"):
        train([*[Example("x", "a")] * 9, Example("y", "b")], tmp_path)
    with pytest.raises(DataError, match="held_out"):
        train(examples(), tmp_path, held_out=0.9)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headrace route train"):
        classifier.load(tmp_path)
    train(examples(), tmp_path)
    weights = tmp_path / "weights.npy"
    good = weights.read_bytes()
    # A pickle in the array's place is not opened: it would run what it likes.
    np.save(weights, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"can be read"):
        classifier.load(tmp_path)
    np.save(weights, np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(ConfigError, match=r"float32\[3, 3\], not float32\[65537, 3\]"):
        classifier.load(tmp_path)
    weights.write_bytes(good[:-100])
    with pytest.raises(ConfigError):
        classifier.load(tmp_path)
    weights.write_bytes(good)
    (tmp_path / "classifier.json").write_text('{"format": "other"}')
    with pytest.raises(ConfigError, match="not of the format"):
        classifier.load(tmp_path)
