"""A model, its preferences and a method -> what the loop trains on: task, batches, held-out ones.

Here is all in which DPO, ORPO, KTO and reward models differ beside their losses. The reference of
DPO and KTO is the model as it is before the first step: its log-probabilities are computed once,
so that no second model is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headrace.data import order, sources
from headrace.data.pack import TokenRow
from headrace.model.reward import fresh_head, with_padding
from headrace.training.objectives.dpo import DpoSettings
from headrace.training.objectives.kto import KtoSettings, drift
from headrace.training.objectives.orpo import OrpoSettings
from headrace.training.objectives.reward import RewardSettings
from headrace.training.preference import tasks
from headrace.training.preference.batches import (
    AnswerBatch,
    AnswerRow,
    Floats,
    PairBatch,
    PairRow,
    answer_batches,
    mismatched,
    pair_batches,
)
from headrace.training.preference.logps import reference_logps, row_logps
from headrace.training.preference.rows import (
    Kept,
    answer_rows,
    pair_rows,
    read_answers,
    read_pairs,
    reward_rows,
)
from headrace.training.recipe import Rows
from headrace.training.recipes.base import Base
from headrace.training.supervise import Supervisor
from headrace.training.task import Task
from headrace.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What every method is given."""

    base: Base
    data: Path
    out: Path
    rows: Rows
    seed: int
    held_out_one_in: int
    precision: str
    """Of the reference's arithmetic: another one says other log-probabilities."""

    @property
    def longest(self) -> int:
        """Positions that a row may have."""
        context = self.base.decoder.config.context_tokens
        return min(self.rows.row_tokens, self.rows.batch_tokens, context)

    def is_held_out(self, record: str) -> bool:
        """Whether a record is kept out of training; both answers of a pair, or neither."""
        one_in = self.held_out_one_in
        return one_in > 0 and sources.is_held_out(record, one_in=one_in)

    def reference(self, name: str, rows: Sequence[TokenRow]) -> Floats:
        """The base's log-probabilities of the rows' answers, kept under `out`."""
        return reference_logps(
            self.base.decoder,
            rows,
            max_tokens=self.rows.batch_tokens,
            cache=self.out / f"{name}.safetensors",
            fingerprint=f"{self.base.loaded.fingerprint}/{self.precision}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a run needs to know of one method."""

    task: Task[Any]
    batches: Callable[[int], Sequence[Any]]
    """Those of a step."""
    held_out: Callable[[], Sequence[Any]] | None
    """Never trained on; made anew, since KTO's depend on the model."""
    trained: int
    """Pairs, or answers, that are trained on."""
    rows: Sequence[TokenRow]
    """Everything that is trained on, for the run's fingerprint."""
    facts: Mapping[str, int]
    prompts: Sequence[Sequence[Message]] = ()
    """Of held-out records."""
    head: nn.Linear | None = None
    """A reward model's."""


def prepare(
    settings: DpoSettings | OrpoSettings | KtoSettings | RewardSettings, given: Setting
) -> Method:
    """Read the data and lay it out for the method whose settings these are.

    Raises:
        DataError: A record that is malformed, or none that can be trained on.
    """
    match settings:
        case DpoSettings():
            return _pairs(tasks.Dpo(settings), given, needs_reference=True)
        case OrpoSettings():
            return _pairs(tasks.Orpo(settings), given, needs_reference=False)
        case KtoSettings():
            return _answers(settings, given)
        case RewardSettings():
            return _reward(settings, given)


def _pairs(task: Task[PairBatch], given: Setting, *, needs_reference: bool) -> Method:
    supervisor = Supervisor.of(given.base.tokenizer, given.base.template)
    read = read_pairs(given.data)
    kept = pair_rows(read, supervisor, longest=given.longest, both=given.rows.batch_tokens)
    prompts = {pair.id: pair.prompt for pair in read}
    reference_N2 = None
    if needs_reference:
        sides = [side for pair in kept.rows for side in (pair.chosen, pair.rejected)]
        reference_N2 = given.reference("reference", sides).reshape(-1, 2)
    return _of_pairs(task, kept, reference_N2, given, prompts=prompts)


def _reward(settings: RewardSettings, given: Setting) -> Method:
    base = given.base
    supervisor = Supervisor.of(base.tokenizer, base.template)
    config = with_padding(base.decoder.config, supervisor.end_id)
    kept = reward_rows(
        read_pairs(given.data),
        supervisor,
        pad_id=config.pad_token_id,
        longest=given.longest,
        both=given.rows.batch_tokens,
    )
    weight = base.decoder.norm.weight
    head = fresh_head(config, seed=given.seed, dtype=weight.dtype).to(weight.device)
    return _of_pairs(tasks.Reward(settings, head), kept, None, given, prompts={}, head=head)


def _of_pairs(
    task: Task[PairBatch],
    kept: Kept[PairRow],
    reference_N2: Floats | None,
    given: Setting,
    *,
    prompts: Mapping[str, Sequence[Message]],
    head: nn.Linear | None = None,
) -> Method:
    held, train = _split([pair.id for pair in kept.rows], given)
    rows = given.rows

    def batches(chosen: Sequence[int]) -> list[PairBatch]:
        known = None if reference_N2 is None else reference_N2[list(chosen)]
        return pair_batches([kept.rows[n] for n in chosen], known, max_tokens=rows.batch_tokens)

    def of_step(step: int) -> list[PairBatch]:
        picked = order.documents(
            seed=given.seed, step=step, count=len(train), per_step=rows.per_step
        )
        return batches([train[place] for place in picked])

    return Method(
        task=task,
        batches=of_step,
        held_out=(lambda: batches(held)) if held else None,
        trained=len(train),
        rows=[side for n in train for side in (kept.rows[n].chosen, kept.rows[n].rejected)],
        facts={"pairs": len(train), "held out": len(held), **_dropped(kept)},
        prompts=[prompts[kept.rows[n].id] for n in held if kept.rows[n].id in prompts],
        head=head,
    )


def _answers(settings: KtoSettings, given: Setting) -> Method:
    supervisor = Supervisor.of(given.base.tokenizer, given.base.template)
    read = read_answers(given.data)
    kept = answer_rows(read, supervisor, longest=given.longest)
    prompts = {record.id: record.prompt for record in read}
    # One held-out answer has nothing to be mismatched with, and is trained on instead.
    held, train = _split([row.id for row in kept.rows], given, least=2)
    task = tasks.Kto(settings)
    # A step's mismatched answers are its own, so what is trained together is fixed: the reference
    # can then be asked once. Which group comes when is shuffled anew each epoch.
    groups = _groups(train, per_step=given.rows.per_step, seed=given.seed)
    trained = [_KtoGroup.of([kept.rows[n] for n in group], settings, given) for group in groups]
    held_group = _KtoGroup.of([kept.rows[n] for n in held], settings, given) if held else None
    every = [*trained, held_group] if held_group else trained
    known_N = given.reference("reference", [row for group in every for row in group.scored])
    edges = np.cumsum([len(group.scored) for group in every])
    known = dict(zip(map(id, every), np.split(known_N, edges[:-1]), strict=True))

    def batches(group: _KtoGroup) -> list[AnswerBatch]:
        return group.batches(given, known[id(group)])

    def of_step(step: int) -> list[AnswerBatch]:
        (place,) = order.documents(seed=given.seed, step=step, count=len(trained), per_step=1)
        return batches(trained[place])

    asked = dict.fromkeys(kept.rows[n].id for n in held)  # a pair's answers have one prompt
    good = sum(kept.rows[n].good for n in train)
    return Method(
        task=task,
        batches=of_step,
        held_out=(lambda: batches(held_group)) if held_group else None,
        trained=len(train),
        rows=[row for group in trained for row in group.scored],
        facts={
            "good answers": good,
            "bad answers": len(train) - good,
            "held out": len(held),
            **_dropped(kept),
        },
        prompts=[prompts[record] for record in asked],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _KtoGroup:
    """Answers that are trained in one step, and their mismatches."""

    answers: Sequence[AnswerRow]
    strangers: Sequence[TokenRow]

    @classmethod
    def of(cls, answers: Sequence[AnswerRow], settings: KtoSettings, given: Setting) -> "_KtoGroup":
        strangers = mismatched(answers, longest=given.longest + 1) if settings.wants_kl else []
        return cls(answers=answers, strangers=strangers)

    @property
    def scored(self) -> list[TokenRow]:
        """What the reference is asked about."""
        return [*(answer.answer for answer in self.answers), *self.strangers]

    def batches(self, given: Setting, reference_N: Floats) -> list[AnswerBatch]:
        """The answers, with the drift of the model as it is now."""
        own = len(self.answers)
        kl = 0.0
        if self.strangers:
            now_M = row_logps(
                given.base.decoder, self.strangers, max_tokens=given.rows.batch_tokens
            )
            kl = float(drift(torch.from_numpy(now_M - reference_N[own:])))
        return answer_batches(
            self.answers, reference_N[:own], max_tokens=given.rows.batch_tokens, kl=kl
        )


def _groups(members: Sequence[int], *, per_step: int, seed: int) -> list[list[int]]:
    """Members in a shuffled order, in groups of about `per_step`."""
    count = len(members)
    shuffled = [
        members[order.permuted(place, count=count, key=f"{seed}/groups")] for place in range(count)
    ]
    pieces = np.array_split(np.arange(count), max(1, round(count / per_step)))
    return [[shuffled[place] for place in piece] for piece in pieces]


def _split(ids: Sequence[str], given: Setting, *, least: int = 1) -> tuple[list[int], list[int]]:
    """Which rows are held out and which are trained on: of either at least so many, or all of them
    are trained on."""
    held = [n for n, name in enumerate(ids) if given.is_held_out(name)]
    if not least <= len(held) <= len(ids) - least:
        held = []
    kept_out = set(held)
    return held, [n for n in range(len(ids)) if n not in kept_out]


def _dropped(kept: Kept[Any]) -> dict[str, int]:
    return {f"left out: {reason}": count for reason, count in kept.left_out.items() if count}
