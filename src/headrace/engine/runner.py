"""A plan becomes tokens: its rows are laid out, the decoder runs once, few rows are projected.

Invariant: the runner keeps nothing between steps but the KV pool and, for penalties, each choice's
`History`; what a row sees is its sequence's blocks and position, whatever else is in the step.
Shapes: T rows of the step, R rows that are sampled from, D model, V vocabulary.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headrace.engine.request import RowResult, Sequence
from headrace.engine.sampler import (
    History,
    Outcome,
    Sampled,
    SampleRow,
    prompt_logprobs,
    sample,
)
from headrace.engine.scheduler import Plan
from headrace.errors import ServiceError
from headrace.model.attend import KvCache, Paged, PagedSpan, slots
from headrace.model.decoder import Decoder
from headrace.types import TokenLogprob

# Entries of a [rows, V] tensor of prompt logits: 16 MiB in float32, whatever the vocabulary.
_SCORE_ENTRIES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """A plan as rows."""

    ids: list[int]
    positions: list[int]
    spans: list[PagedSpan]
    """One a sequence, in the plan's order."""


class Runner:
    """Executes plans on one device.

    Args:
        decoder: The model, on its device.
        kv: The pool that the scheduler's block numbers mean.
    """

    def __init__(self, decoder: Decoder, kv: KvCache) -> None:
        self._decoder = decoder
        self._kv = kv
        self._device = kv.k[0].device
        self._histories: WeakKeyDictionary[Sequence, _Kept] = WeakKeyDictionary()

    def execute(self, plan: Plan) -> dict[Sequence, RowResult]:
        """Run every row of the plan, sample where a sequence's last token ran, score prompts."""
        layout = _lay_out(plan)
        with torch.inference_mode():
            hidden_TD = self._hidden(layout)
            results = self._score_prompts(plan, layout, hidden_TD)
            sampling = [
                (sequence, span.row_end - 1)
                for (sequence, rows), span in zip(plan.rows.items(), layout.spans, strict=True)
                if sequence.samples and sequence.computed + rows == len(sequence)
            ]
            outcomes = self._sample(sampling, hidden_TD)
        for (sequence, _), outcome in zip(sampling, outcomes, strict=True):
            scored = results.get(sequence, RowResult())
            if isinstance(outcome, Sampled):
                results[sequence] = replace(scored, token=outcome.token, logprob=outcome.logprob)
            else:
                results[sequence] = RowResult(failure=outcome.reason)
        return results

    def _hidden(self, layout: _Layout) -> Tensor:
        device, spans = self._device, layout.spans
        attend = Paged(self._kv, slots(spans, self._kv.block_tokens, device), spans)
        ids_T = torch.tensor(layout.ids, dtype=torch.int64, device=device)
        pos_T = torch.tensor(layout.positions, dtype=torch.int64, device=device)
        return self._decoder.hidden(ids_T, pos_T, attend)

    def _sample(self, sampling: Items[tuple[Sequence, int]], hidden_TD: Tensor) -> list[Outcome]:
        if not sampling:
            return []
        rows_R = torch.tensor([row for _, row in sampling], device=self._device)
        logits_RV = self._decoder.logits(hidden_TD[rows_R])
        return sample(logits_RV, [self._sample_row(sequence) for sequence, _ in sampling])

    def _sample_row(self, sequence: Sequence) -> SampleRow:
        request = sequence.request
        kept = self._histories.get(sequence)
        if kept is None:
            kept = _Kept(history=History.of(request.sampling, request.prompt))
            self._histories[sequence] = kept
        assert request.sampling.seed is not None, "whoever makes the request resolves the seed"
        return SampleRow(
            sampling=request.sampling,
            seed=request.sampling.seed,
            choice=sequence.index,
            position=len(sequence.completion),
            history=kept.up_to(sequence.completion),
            end_ids=request.end_ids,
        )

    def _score_prompts(
        self, plan: Plan, layout: _Layout, hidden_TD: Tensor
    ) -> dict[Sequence, RowResult]:
        results: dict[Sequence, RowResult] = {}
        for (sequence, rows), span in zip(plan.rows.items(), layout.spans, strict=True):
            if not sequence.scores_prompt:
                continue
            # Row p scores token p + 1; after a preemption the first of them are known already.
            prompt = sequence.request.prompt
            first = max(sequence.computed, len(sequence.prompt_scores))
            last = min(sequence.computed + rows, len(prompt) - 1)
            offset = span.row_start - sequence.computed
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
        chunk = max(1, _SCORE_ENTRIES // self._decoder.config.vocab_size)
        for start in range(0, len(targets), chunk):
            logits_RV = self._decoder.logits(hidden_RD[start : start + chunk])
            found += prompt_logprobs(logits_RV, targets[start : start + chunk], k=k)
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


def _lay_out(plan: Plan) -> _Layout:
    layout = _Layout(ids=[], positions=[], spans=[])
    for sequence, rows in plan.rows.items():
        start, stop = sequence.computed, sequence.computed + rows
        row_start = len(layout.ids)
        layout.ids.extend(sequence.tokens(start, stop))
        layout.positions.extend(range(start, stop))
        layout.spans.append(
            PagedSpan(
                row_start=row_start,
                row_end=row_start + rows,
                blocks=sequence.blocks,
                context_tokens=stop,
            )
        )
    return layout
