"""Preferences in messages -> rows of ids; what cannot be trained on is left out and counted.

Left out are pairs whose sides are the same tokens, which teach nothing, and rows longer than the
context or the recipe allows: nothing is cut. Everything else that is wrong is an error.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from headrace.data import records
from headrace.data.chat import Conversation
from headrace.data.pack import TokenRow
from headrace.data.records import Preference, Rating
from headrace.errors import DataError
from headrace.model.reward import scored_position
from headrace.training.preference.batches import AnswerRow, PairRow, scored_row
from headrace.training.supervise import Supervisor
from headrace.types import Message
from headrace.wire.json_body import parse

_Row = TypeVar("_Row")
EQUAL, TOO_LONG = "equal sides", "too long"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept(Generic[_Row]):
    """What can be trained on, and how much was left out, by reason."""

    rows: Sequence[_Row]
    left_out: Mapping[str, int]


def read_pairs(path: Path) -> list[Preference]:
    """The pairs of one `*.jsonl[.gz]`, or of all in a directory; equal sides are counted later.

    Raises:
        DataError: As `records.preferences`.
    """
    return [pair for file in _files(path) for pair in records.preferences(file, keep_equal=True)]


def read_answers(path: Path) -> list[Preference | Rating]:
    """Single answers, or pairs, of which each is a good and a bad answer; as `read_pairs`."""
    found: list[Preference | Rating] = []
    for file in _files(path):
        found += read_pairs(file) if _holds_pairs(file) else records.ratings(file)
    return found


def pair_rows(
    pairs: Iterable[Preference], supervisor: Supervisor, *, longest: int, both: int
) -> Kept[PairRow]:
    """Rows of both sides, the answers supervised.

    Args:
        pairs: What is preferred to what.
        supervisor: Of the model's tokenizer and template.
        longest: Positions a side may have.
        both: Positions the two sides may have together.

    Raises:
        DataError: No pair is left.
    """
    made = (
        PairRow(
            id=pair.id,
            chosen=_row(supervisor, pair, pair.chosen),
            rejected=_row(supervisor, pair, pair.rejected),
        )
        for pair in pairs
    )
    return _kept(made, longest=longest, both=both)


def reward_rows(
    pairs: Iterable[Preference],
    supervisor: Supervisor,
    *,
    pad_id: int | None,
    longest: int,
    both: int,
) -> Kept[PairRow]:
    """As `pair_rows`, each side whole and scored at its last token that is not `pad_id`."""

    def scored(row: TokenRow) -> TokenRow:
        ids = row.ids.tolist()
        return scored_row(ids, at=scored_position(ids, pad_id))

    made = (
        PairRow(
            id=pair.id,
            chosen=scored(_row(supervisor, pair, pair.chosen)),
            rejected=scored(_row(supervisor, pair, pair.rejected)),
            margin=_margin(pair.id, pair.extra.get("margin")),
        )
        for pair in pairs
    )
    return _kept(made, longest=longest, both=both)


def answer_rows(
    answers: Iterable[Preference | Rating], supervisor: Supervisor, *, longest: int
) -> Kept[AnswerRow]:
    """Rows of single answers, supervised; those of a pair with equal sides are left out.

    Raises:
        DataError: None is left.
    """
    rows: list[AnswerRow] = []
    left_out = {EQUAL: 0, TOO_LONG: 0}
    for record in answers:
        made = list(_judged(record, supervisor))
        if len(made) == 2 and np.array_equal(made[0].answer.ids, made[1].answer.ids):
            left_out[EQUAL] += 1
            continue
        fitting = [row for row in made if len(row.answer.ids) - 1 <= longest]
        left_out[TOO_LONG] += len(made) - len(fitting)
        rows += fitting
    _refuse_empty(rows, left_out, longest)
    return Kept(rows=rows, left_out=left_out)


def _judged(record: Preference | Rating, supervisor: Supervisor) -> Iterator[AnswerRow]:
    match record:
        case Rating():
            row = _row(supervisor, record, record.completion)
            yield AnswerRow(id=record.id, answer=row, good=record.desirable)
        case Preference():
            for messages, good in ((record.chosen, True), (record.rejected, False)):
                row = _row(supervisor, record, messages)
                yield AnswerRow(id=record.id, answer=row, good=good)


def _row(
    supervisor: Supervisor, record: Preference | Rating, answer: Sequence[Message]
) -> TokenRow:
    whole = Conversation(id=record.id, messages=(*record.prompt, *answer), tools=record.tools)
    return supervisor.row(whole, given=len(record.prompt))


def _margin(record: str, value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"pair {record}: `margin` must be a number, not {value!r}", param="margin")
    return float(value)


def _kept(pairs: Iterable[PairRow], *, longest: int, both: int) -> Kept[PairRow]:
    rows: list[PairRow] = []
    left_out = {EQUAL: 0, TOO_LONG: 0}
    for pair in pairs:
        sizes = [len(pair.chosen.ids) - 1, len(pair.rejected.ids) - 1]
        if np.array_equal(pair.chosen.ids, pair.rejected.ids):
            left_out[EQUAL] += 1
        elif max(sizes) > longest or sum(sizes) > both:
            left_out[TOO_LONG] += 1
        else:
            rows.append(pair)
    _refuse_empty(rows, left_out, min(longest, both))
    return Kept(rows=rows, left_out=left_out)


def _refuse_empty(rows: Sequence[object], left_out: Mapping[str, int], longest: int) -> None:
    if rows:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    raise DataError(
        f"no preference is left to train on: {counts}; give pairs whose sides differ and fit "
        f"{longest} tokens, or raise rows.row_tokens and rows.batch_tokens"
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.jsonl*"))
    if not found:
        raise DataError(f"{path} has no *.jsonl and no *.jsonl.gz; give such a file or directory")
    return found


def _holds_pairs(file: Path) -> bool:
    for _, line in records.lines(file):
        fields = parse(line, what="the line")
        return fields.take("chosen") is not None or fields.take("rejected") is not None
    return False  # empty, which the reader of ratings says
