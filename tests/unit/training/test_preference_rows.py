"""Preference records -> rows: what is supervised, what is left out and counted, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.data.chat import turns
from headrace.data.records import Preference, Rating
from headrace.errors import DataError
from headrace.tokens import ChatTemplate, Tokenizer
from headrace.training.preference.rows import (
    answer_rows,
    pair_rows,
    read_answers,
    read_pairs,
    reward_rows,
)
from headrace.training.supervise import Supervisor
from headrace.types import Message

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(SPROUT)


@pytest.fixture(scope="module")
def supervisor(tokenizer: Tokenizer) -> Supervisor:
    return Supervisor.of(tokenizer, ChatTemplate.load(SPROUT))


def _pair(prompt: tuple[Message, ...], chosen: str, rejected: str, **extra: Any) -> Preference:
    sides = (turns("", chosen)[1:], turns("", rejected)[1:])
    return Preference(id="p", prompt=prompt, chosen=sides[0], rejected=sides[1], extra=extra)


def test_only_the_answer_is_supervised_not_what_the_assistant_said_before(
    supervisor: Supervisor, tokenizer: Tokenizer
) -> None:
    pair = _pair(turns("2 + 2?", "4, I think.", "Sure?"), "Yes, 4.", "No.")
    kept = pair_rows([pair], supervisor, longest=99, both=99)
    (row,) = kept.rows
    for side, said in ((row.chosen, "Yes, 4."), (row.rejected, "No.")):
        supervised = side.ids[side.weights != 0].tolist()
        assert tokenizer.decode(supervised) == said
        assert supervised[-1] == tokenizer.eos_id
    assert kept.left_out == {"equal sides": 0, "too long": 0}


def test_what_cannot_be_trained_on_is_counted(supervisor: Supervisor) -> None:
    good, equal, long = (
        _pair(turns("a?"), "yes", "no"),
        _pair(turns("a?"), "yes", "yes"),
        _pair(turns("a? " * 50), "yes", "no"),
    )
    kept = pair_rows([good, equal, long, long], supervisor, longest=60, both=100)
    assert len(kept.rows) == 1
    assert kept.left_out == {"equal sides": 1, "too long": 2}
    sizes = [len(side.ids) - 1 for side in (kept.rows[0].chosen, kept.rows[0].rejected)]
    exact = pair_rows([good], supervisor, longest=max(sizes), both=sum(sizes))
    assert len(exact.rows) == 1
    for longest, both in ((max(sizes) - 1, 999), (999, sum(sizes) - 1)):
        with pytest.raises(DataError, match="no preference is left to train on: 1 too long"):
            pair_rows([good], supervisor, longest=longest, both=both)
    with pytest.raises(DataError, match="1 equal sides, 2 too long"):
        pair_rows([equal, long, long], supervisor, longest=60, both=100)


def test_single_answers_and_pairs_as_two(supervisor: Supervisor) -> None:
    rating = Rating(id="r", prompt=turns("a?"), completion=turns("", "no")[1:], desirable=False)
    pairs = [_pair(turns("b?"), "yes", "no"), _pair(turns("c?"), "yes", "yes")]
    kept = answer_rows([rating, *pairs], supervisor, longest=99)
    assert [(row.id, row.good) for row in kept.rows] == [("r", False), ("p", True), ("p", False)]
    assert kept.left_out == {"equal sides": 1, "too long": 0}
    with pytest.raises(DataError, match="1 too long"):
        answer_rows([rating], supervisor, longest=3)


def test_reward_rows_are_whole_and_scored_at_their_last_token(supervisor: Supervisor) -> None:
    pair = _pair(turns("a?"), "yes", "no", margin=2)
    plain = pair_rows([pair], supervisor, longest=99, both=199).rows[0]
    for pad_id in (None, int(plain.chosen.ids[-1])):
        (row,) = reward_rows([pair], supervisor, pad_id=pad_id, longest=99, both=199).rows
        assert row.margin == 2.0
        inputs = row.chosen.ids[:-1]
        np.testing.assert_array_equal(inputs, plain.chosen.ids)
        (at,) = np.flatnonzero(row.chosen.weights)
        assert at - 1 == len(inputs) - (1 if pad_id is None else 2)
    with pytest.raises(DataError, match="pair p: `margin` must be a number, not 'big'"):
        reward_rows(
            [_pair(turns("a?"), "yes", "no", margin="big")],
            supervisor,
            pad_id=None,
            longest=99,
            both=199,
        )


def test_a_template_without_roles_is_refused(tokenizer: Tokenizer) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match="no generation prompt"):
        Supervisor.of(tokenizer, template)


def test_files_and_directories(tmp_path: Path) -> None:
    pair = {"prompt": "a?", "chosen": "yes", "rejected": "yes"}
    rating = {"prompt": "a?", "completion": "no", "label": False}
    (tmp_path / "a.jsonl").write_text(json.dumps(pair) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(rating) + "\n")
    assert len(read_pairs(tmp_path / "a.jsonl")) == 1  # equal sides are counted later
    assert [type(one).__name__ for one in read_answers(tmp_path)] == ["Preference", "Rating"]
    with pytest.raises(DataError, match=r"b.jsonl:1: `chosen` is missing"):
        read_pairs(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"has no \*.jsonl"):
        read_pairs(tmp_path / "none")
    (tmp_path / "none" / "empty.jsonl").touch()
    with pytest.raises(DataError, match="has no record"):
        read_answers(tmp_path / "none")
