"""A plan becomes tokens: its rows are laid out, the decoder runs once, few rows are projected.

Invariant: the runner keeps nothing between steps but the KV pool and, for penalties, each choice's
`History`; what a row sees is its sequence's blocks and position, whatever else is in the step.
Shapes: T rows of the step, R rows that are sampled from, D model, V vocabulary.
"""

import itertools
from collections.abc import Sequence as Items
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headrace.engine.batch import Batch
from headrace.engine.request import RowResult, Sequence
from headrace.engine.sampler import (
    Arithmetic,
    History,
    Outcome,
    Sampled,
    SampleRow,
    arithmetic_for,
    prompt_logprobs,
    sample_by,
)
from headrace.engine.scheduler import Plan
from headrace.errors import ServiceError
from headrace.model.stack import Stack
from headrace.types import TokenLogprob

# Entries of a [rows, V] tensor of prompt logits: 16 MiB in float32, whatever the vocabulary.
_SCORE_ENTRIES = 4 << 20


class Runner:
    """Executes plans on one device.

    Args:
        stack: The model and the pool that the scheduler's block numbers mean.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._batch = Batch()
        self._arithmetic: Arithmetic | None = None
        self._histories: WeakKeyDictionary[Sequence, _Kept] = WeakKeyDictionary()

    def execute(self, plan: Plan) -> dict[Sequence, RowResult]:
        """Run every row of the plan, sample where a sequence's last token ran, score prompts."""
        ends = list(itertools.accumulate(plan.rows.values()))
        hidden_TD = self._stack.hidden(self._batch.lay_out(plan.rows))
        results = self._score_prompts(plan, ends, hidden_TD)
        sampling = [
            (sequence, end - 1)
            for (sequence, rows), end in zip(plan.rows.items(), ends, strict=True)
            if sequence.computed + rows == len(sequence) and sequence.samples
        ]
        outcomes = self._sample(sampling, hidden_TD)
        for (sequence, _), outcome in zip(sampling, outcomes, strict=True):
            scored = results.get(sequence)
            if not isinstance(outcome, Sampled):
                results[sequence] = RowResult(failure=outcome.reason)
            elif scored is None:
                results[sequence] = RowResult(outcome.token, outcome.logprob)
            else:
                results[sequence] = scored._replace(token=outcome.token, logprob=outcome.logprob)
        return results

    def _sample(self, sampling: Items[tuple[Sequence, int]], hidden_TD: Tensor) -> list[Outcome]:
        if not sampling:
            return []
        if len(sampling) < hidden_TD.shape[0]:
            rows_R = torch.tensor([row for _, row in sampling], device=hidden_TD.device)
            hidden_TD = hidden_TD[rows_R]
        logits_RV = self._stack.logits(hidden_TD)
        if self._arithmetic is None:
            self._arithmetic = arithmetic_for(logits_RV, self._stack.pool)
        rows = [self._sample_row(sequence) for sequence, _ in sampling]
        return sample_by(self._arithmetic, logits_RV, rows)

    def _sample_row(self, sequence: Sequence) -> SampleRow:
        group = sequence.group
        params = group.request.sampling
        assert params.seed is not None, "whoever makes the request resolves the seed"
        return SampleRow(
            sampling=params,
            seed=params.seed,
            choice=sequence.index,
            position=len(sequence.completion),
            history=self._history(sequence) if History.read_by(params) else None,
            end_ids=group.end_ids,
        )

    def _history(self, sequence: Sequence) -> History | None:
        kept = self._histories.get(sequence)
        if kept is None:
            request = sequence.request
            kept = _Kept(history=History.of(request.sampling, request.prompt))
            self._histories[sequence] = kept
        return kept.up_to(sequence.completion)

    def _score_prompts(
        self, plan: Plan, ends: Items[int], hidden_TD: Tensor
    ) -> dict[Sequence, RowResult]:
        results: dict[Sequence, RowResult] = {}
        for (sequence, rows), end in zip(plan.rows.items(), ends, strict=True):
            if not sequence.scores_prompt:
                continue
            # Row p scores token p + 1; after a preemption the first of them are known already.
            prompt = sequence.request.prompt
            first = max(sequence.computed, len(sequence.prompt_scores))
            last = min(sequence.computed + rows, len(prompt) - 1)
            offset = end - rows - sequence.computed
            try:
                scores = self._score(
                    hidden_TD[first + offset : max(first, last) + offset],
                    prompt[first + 1 : last + 1],
                    k=sequence.request.sampling.prompt_logprobs or 0,
                )
            except ServiceError as error:
                results[sequence] = RowResult(failure=error.message)
            else:
                results[sequence] = RowResult(prompt_scores=scores)
        return results

    def _score(
        self, hidden_RD: Tensor, targets: tuple[int, ...], *, k: int
    ) -> tuple[TokenLogprob, ...]:
        found: list[TokenLogprob] = []
        chunk = max(1, _SCORE_ENTRIES // self._stack.config.vocab_size)
        for start in range(0, len(targets), chunk):
            logits_RV = self._stack.logits(hidden_RD[start : start + chunk])
            part = targets[start : start + chunk]
            found += prompt_logprobs(logits_RV, part, k=k, pool=self._stack.pool)
        return tuple(found)


@dataclass(kw_only=True, slots=True)
class _Kept:
    """A choice's history and how much of its completion is in it."""

    history: History | None
    pushed: int = 0

    def up_to(self, completion: list[int]) -> History | None:
        if self.history is not None:
            for token in completion[self.pushed :]:
                self.history.push(token)
            self.pushed = len(completion)
        return self.history
