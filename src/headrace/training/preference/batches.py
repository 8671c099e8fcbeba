"""Rows of answers -> batches in which both sides of a pair run in the same forward pass.

Legend: T tokens of a batch, B pairs (or single answers) of a batch, N of a data set.

Invariants: a pair is never torn: documents 2b and 2b + 1 of a batch are the chosen and the rejected
side of its pair b; packing changes no row, only which batch holds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.data.pack import PackedBatch, TokenRow, pack
from headrace.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """A prompt with the better and the worse answer; the answers' tokens are supervised."""

    id: str
    chosen: TokenRow
    rejected: TokenRow
    margin: float = 0.0
    """By how much the chosen one is better, where raters said so; reward models alone read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRow:
    """A prompt with one answer, good or bad; the answer's tokens are supervised."""

    id: str
    answer: TokenRow
    good: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTotals:
    """What the whole step holds, so that a mean over its tokens does not depend on its cuts."""

    pairs: int
    chosen_tokens: int
    """Of the chosen answers."""
    chosen_positions: int
    """Of prompts and chosen answers: every position of the chosen rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBatch:
    """Pairs that run together."""

    packed: PackedBatch
    margin_B: Floats
    reference_B2: Floats
    """Log-probabilities of chosen and rejected answers under the reference; zeros without one."""
    step: PairTotals

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def pairs(self) -> int:
        return len(self.margin_B)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerTotals:
    """What the whole step holds."""

    answers: int
    good: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerBatch:
    """Single answers that run together."""

    packed: PackedBatch
    good_B: npt.NDArray[np.bool_]
    reference_B: Floats
    step: AnswerTotals
    kl: float = 0.0
    """KTO's reference point: how far the policy has drifted from the reference, in nats."""

    @property
    def tokens(self) -> int:
        return self.packed.tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Groups of rows that share a batch: which ones, in the order of its documents."""

    groups: Sequence[int]
    packed: PackedBatch


def bundled(groups: Sequence[Sequence[TokenRow]], *, max_tokens: int) -> list[Bundle]:
    """Groups into batches of at most `max_tokens` positions: first fit, the largest group first.

    Raises:
        DataError: A group that no batch can hold.
    """
    sizes = [sum(len(row.ids) - 1 for row in rows) for rows in groups]
    bins: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(groups)), key=lambda number: -sizes[number]):
        size = sizes[number]
        if size > max_tokens:
            raise DataError(
                f"{len(groups[number])} rows that belong together have {size} positions, a batch "
                f"holds {max_tokens}; raise batch_tokens to {size}"
            )
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([number])
            room.append(max_tokens - size)
        else:
            bins[place].append(number)
            room[place] -= size
    return [
        Bundle(
            groups=members,
            packed=pack(
                [row for number in members for row in groups[number]], max_tokens=max_tokens
            )[0],
        )
        for members in bins
    ]


def pair_batches(
    pairs: Sequence[PairRow], reference_N2: Floats | None, *, max_tokens: int
) -> list[PairBatch]:
    """The pairs of one step, and what the reference said of them (None = without one)."""
    known_N2 = np.zeros((len(pairs), 2)) if reference_N2 is None else reference_N2
    totals = PairTotals(
        pairs=len(pairs),
        chosen_tokens=sum(int(np.count_nonzero(pair.chosen.weights[1:])) for pair in pairs),
        chosen_positions=sum(len(pair.chosen.ids) - 1 for pair in pairs),
    )
    return [
        PairBatch(
            packed=bundle.packed,
            margin_B=np.array([pairs[n].margin for n in bundle.groups], np.float64),
            reference_B2=known_N2[list(bundle.groups)],
            step=totals,
        )
        for bundle in bundled([(p.chosen, p.rejected) for p in pairs], max_tokens=max_tokens)
    ]


def answer_batches(
    answers: Sequence[AnswerRow], reference_N: Floats, *, max_tokens: int, kl: float = 0.0
) -> list[AnswerBatch]:
    """The answers of one step, what the reference said of them, and the step's `kl`."""
    totals = AnswerTotals(answers=len(answers), good=sum(answer.good for answer in answers))
    return [
        AnswerBatch(
            packed=bundle.packed,
            good_B=np.array([answers[n].good for n in bundle.groups], np.bool_),
            reference_B=reference_N[list(bundle.groups)],
            step=totals,
            kl=kl,
        )
        for bundle in bundled([(answer.answer,) for answer in answers], max_tokens=max_tokens)
    ]


def mismatched(answers: Sequence[AnswerRow], *, longest: int) -> list[TokenRow]:
    """Each prompt with the answer of the row before it (the first with the last's).

    KTO's estimate of drift is over answers that do not belong to their prompts; these are the
    step's own, so that both sums are over the same answers. A long prompt with a long answer that
    has more than `longest` ids is left out of the estimate.

    Raises:
        DataError: Nothing can be mismatched: one answer alone, or all too long.
    """
    rows: list[TokenRow] = []
    for place, mine in enumerate(answers):
        other = answers[place - 1].answer
        prompt = mine.answer.ids[: _answer_start(mine.answer)]
        reply = other.ids[_answer_start(other) :]
        weights = other.weights[_answer_start(other) :]
        if len(prompt) + len(reply) <= longest:
            unweighted = np.zeros(len(prompt), np.float32)
            rows.append(
                TokenRow(
                    ids=np.concatenate([prompt, reply]),
                    weights=np.concatenate([unweighted, weights]),
                )
            )
    if len(answers) < 2 or not rows:
        raise DataError(
            f"KTO measures drift on mismatched answers, and of the step's {len(answers)} none can "
            f"be mismatched within {longest} tokens; give at least 2 examples a step, shorter "
            "ones, or loss.kind=apo_zero_unpaired, which needs none"
        )
    return rows


def _answer_start(row: TokenRow) -> int:
    return int(np.argmax(row.weights != 0))


def scored_row(ids: Sequence[int], *, at: int) -> TokenRow:
    """A row whose every id is an input, its one supervised position where it is scored.

    A row's last id is otherwise a target alone; it is repeated, and the repetition is never scored.
    """
    weights = np.zeros(len(ids) + 1, np.float32)
    weights[at + 1] = 1.0
    return TokenRow(ids=np.asarray([*ids, ids[-1]], np.int32), weights=weights)
