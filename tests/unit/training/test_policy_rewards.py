"""Rewards: what they read, what they give, and what is said of those that cannot be had."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError, DataError
from headrace.training.policy.rewards import number, reward, scores

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "train.jsonl.gz"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so it is 42.", "42"),
        ("first 7, then 8", "8"),
        ("#### 1,234", "1234"),
        ("12 and #### 5 (of 9)", "5"),
        ("it costs $2.50", "2.50"),
        ("-3", "-3"),
        (".5", "0.5"),
        ("no number", None),
        ("", None),
        ("#### none", None),
    ],
)
def test_the_number_a_text_comes_to(text: str, expected: str | None) -> None:
    assert number(text) == (None if expected is None else Decimal(expected))


@given(st.integers(-(10**9), 10**9), st.text(alphabet="ab .:\n", max_size=20))
def test_a_number_is_found_behind_any_words(value: int, words: str) -> None:
    assert number(f"{words} {value}") == value
    assert number(f"{words} {value:,}") == value
    assert number(f"{words} 17 #### {value}") == value


def test_every_gsm8k_answer_answers_itself() -> None:
    if not GSM8K.is_file():
        pytest.skip(f"{GSM8K} is not here")
    with gzip.open(GSM8K, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    answers = [record["answer"] for record in records]
    assert scores([reward("numeric")], answers, records).all()
    bare = [str(number(answer)) for answer in answers]
    assert scores([reward("numeric")], bare, records).all()


def test_exact_and_format() -> None:
    records = [{"answer": "yes"}] * 3
    each = scores(
        [reward("exact"), reward("format:yes|no")], [" yes\n", "no", "yes and no"], records
    )
    assert each.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_a_factor() -> None:
    assert reward("0.2*format:a*b").factor == 0.2
    assert reward("3*exact").factor == 3.0
    assert reward("exact").factor == 1.0


def shout(answer: str, record: Any) -> float:
    """A reward by import path."""
    return len(answer) if answer.isupper() else record["other"]


def test_a_function_by_its_import_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_rewards_of_the_test.py").write_text(
        "def length(answer, record):\n    return len(answer) / record['longest']\n"
        "def broken(answer, record):\n    return record['absent']\n"
        "def nan(answer, record):\n    return float('nan')\nvalue = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = reward("my_rewards_of_the_test:length")
    assert scores([mine], ["abcd"], [{"longest": 8}]).tolist() == [[0.5]]
    with pytest.raises(DataError, match=r"broken raised KeyError\('absent'\) on the answer 'x'"):
        scores([reward("my_rewards_of_the_test:broken")], ["x"], [{}])
    with pytest.raises(DataError, match="nan gave nan for the answer 'x'"):
        scores([reward("my_rewards_of_the_test:nan")], ["x"], [{}])
    with pytest.raises(ConfigError, match="value is a int, no function"):
        reward("my_rewards_of_the_test:value")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exactly", "is none of exact, numeric"),
        ("nowhere_at_all:f", "cannot be imported"),
        ("json:nothing_there", "cannot be imported"),
        ("format:(", "no regular expression"),
        ("format:", "is none of"),
    ],
)
def test_what_names_no_reward_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reward(spec)


def test_a_record_without_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="there is none in"):
        scores([reward("exact")], ["x"], [{"question": "?"}])
    with pytest.raises(DataError, match="needs a number in `answer`, not 'x'"):
        scores([reward("numeric")], ["1"], [{"answer": "x"}])
