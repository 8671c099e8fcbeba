"""Tokens and log-probabilities of scores in plain torch, on any device: the reference.

Invariants: a row's token depends on its own logits, parameters, history and (seed, choice,
position) only, never on the batch; ties go to the lowest id. `sampler_native` computes the same;
its tests compare the two. Shapes: R rows, V vocabulary, C candidates.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from headrace.engine.draws import uniform
from headrace.engine.edits import RowEdits, has_edits
from headrace.engine.sample_rows import SampleRow
from headrace.kernels.sampling import NOT_FINITE, NOTHING_LEFT
from headrace.types import TokenLogprob

# Entries of a [rows, V] work tensor: 32 MiB in float64, so that a large vocabulary times many rows
# does not triple the engine's memory for a moment.
_CHUNK_ENTRIES = 4 << 20
_LOW_32 = (1 << 32) - 1


class TorchSampling:
    """`sampler.Arithmetic` by torch."""

    @torch.inference_mode()
    def draw(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """A token a row, or `NOT_FINITE` or `NOTHING_LEFT`."""
        scores_RV = _edited(logits_RV, rows)
        best_R, token_R = scores_RV.max(dim=-1)
        random = [r for r, row in enumerate(rows) if row.sampling.temperature > 0.0]
        if random:
            token_R[torch.tensor(random, device=token_R.device)] = _drawn(scores_RV, rows, random)
        token_R.masked_fill_(~torch.isfinite(best_R), NOTHING_LEFT)
        token_R.masked_fill_(~_finite(logits_RV), NOT_FINITE)
        return token_R.tolist()

    @torch.inference_mode()
    def score(
        self, logits_RV: Tensor, targets: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob] | None:
        """Log-probabilities of targets[r] and the tops[r] best tokens; None = not all finite."""
        if not bool(_finite(logits_RV).all()):
            return None
        return list(_logprobs(logits_RV, targets, tops))


def _edited(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The scores after every edit; logits_RV itself where no row has one."""
    found = {r: RowEdits(row) for r, row in enumerate(rows) if has_edits(row)}
    if not found:
        return logits_RV
    device = logits_RV.device
    counts = torch.tensor([len(edits.ids_E) for edits in found.values()])
    row_E = torch.tensor(list(found)).repeat_interleave(counts).to(device)
    id_E = torch.from_numpy(np.concatenate([edits.ids_E for edits in found.values()])).to(device)
    x_E = logits_RV[row_E, id_E].cpu().numpy()
    start = 0
    for edits in found.values():
        edits.apply(x_E[start : start + len(edits.ids_E)])
        start += len(edits.ids_E)
    scores_RV = logits_RV.clone()
    scores_RV[row_E, id_E] = torch.from_numpy(x_E).to(device)
    return scores_RV


def _finite(x_RV: Tensor) -> Tensor:
    low_R, high_R = torch.aminmax(x_RV, dim=-1)  # both propagate NaN
    return torch.isfinite(low_R) & torch.isfinite(high_R)


# --- the draw: temperature, top_k, top_p, min_p, inverse CDF ----------------------------------


def _drawn(scores_RV: Tensor, rows: Sequence[SampleRow], random: Sequence[int]) -> Tensor:
    """Tokens of the rows `random`, in that order."""
    vocab = scores_RV.shape[-1]
    tokens_R = torch.empty(len(random), dtype=torch.int64, device=scores_RV.device)
    plain: list[int] = []  # no order needed: inverse CDF in id order
    narrow: list[int] = []  # top_k: only the k best take part
    wide: list[int] = []  # top_p over the whole vocabulary
    for at, r in enumerate(random):
        sampling = rows[r].sampling
        if 0 < sampling.top_k < vocab:
            narrow.append(at)
        elif sampling.top_p < 1.0:
            wide.append(at)
        else:
            plain.append(at)
    for group, draw in ((plain, _draw_plain), (narrow, _draw_ordered), (wide, _draw_ordered)):
        for chunk in _chunks(group, vocab):
            picks = [random[at] for at in chunk]
            chosen = [rows[r] for r in picks]
            tokens_R[torch.tensor(chunk, device=tokens_R.device)] = draw(scores_RV[picks], chosen)
    return tokens_R


def _draw_plain(x_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    weight_RV = _weights(x_RV, rows)
    min_p_R1 = _column(x_RV, [row.sampling.min_p for row in rows])
    weight_RV.masked_fill_(weight_RV < min_p_R1, 0.0)
    return _inverse_cdf(weight_RV, rows)


def _draw_ordered(x_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    vocab = x_RV.shape[-1]
    # A row without top_k is in a call of its own kind, so `width` is then the vocabulary.
    top_k = [row.sampling.top_k if 0 < row.sampling.top_k < vocab else vocab for row in rows]
    width = max(top_k)
    id_RC = _best_ids(x_RV, width)
    weight_RC = _weights(x_RV.gather(-1, id_RC), rows)
    rank_C = torch.arange(width, device=x_RV.device)
    weight_RC.masked_fill_(rank_C >= torch.tensor(top_k, device=x_RV.device)[:, None], 0.0)
    # top_p: drop a token when those before it already reach top_p; the crossing token stays.
    cdf_RC = weight_RC.cumsum(-1)
    before_RC = torch.zeros_like(cdf_RC)
    before_RC[:, 1:] = cdf_RC[:, :-1]
    top_p_R1 = _column(x_RV, [row.sampling.top_p for row in rows])
    full_R1 = top_p_R1 >= 1.0  # rounding must not drop the tail where top_p is off
    dropped_RC = (before_RC >= top_p_R1 * cdf_RC[:, -1:]) & ~full_R1
    dropped_RC[:, 0] = False
    min_p_R1 = _column(x_RV, [row.sampling.min_p for row in rows])
    weight_RC.masked_fill_(dropped_RC | (weight_RC < min_p_R1), 0.0)
    at_R = _inverse_cdf(weight_RC, rows)
    return id_RC.gather(-1, at_R[:, None])[:, 0]


def _weights(x_RC: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Probability over the best token's, in float64: exactly 1 for the best, so min_p compares."""
    temperature_R1 = _column(x_RC, [row.sampling.temperature for row in rows])
    x_RC = x_RC.double()
    return ((x_RC - x_RC.amax(-1, keepdim=True)) / temperature_R1).exp_()


def _inverse_cdf(weight_RC: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    cdf_RC = weight_RC.cumsum(-1)
    total_R1 = cdf_RC[:, -1:].contiguous()
    draws = [uniform(seed=row.seed, choice=row.choice, position=row.position) for row in rows]
    at_R1 = torch.searchsorted(cdf_RC, _column(weight_RC, draws) * total_R1, right=True)
    # u * total may round up to total; the first entry that reaches it is the last with any weight.
    return torch.minimum(at_R1, torch.searchsorted(cdf_RC, total_R1))[:, 0].clamp_(
        max=weight_RC.shape[-1] - 1  # a row of NaN finds no entry; it is refused afterwards
    )


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]


def _best_ids(x_RV: Tensor, k: int) -> Tensor:
    """Ids of the k largest, best first, equal ones by lowest id.

    `topk` promises nothing about ties, so it ranks integers without ties: the float's bits in
    order-preserving form above the inverted id.
    """
    vocab = x_RV.shape[-1]
    bits_RV = (x_RV + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    ordered_RV = (bits_RV ^ ((bits_RV >> 31) & 0x7FFFFFFF)).to(torch.int64)
    inverted_V = torch.arange(vocab - 1, -1, -1, device=x_RV.device)
    key_RV = (ordered_RV << 32) | inverted_V
    if k < vocab:
        best_RC = key_RV.topk(k, dim=-1, sorted=True).values
    else:
        best_RC = key_RV.sort(dim=-1, descending=True).values
    return vocab - 1 - (best_RC & _LOW_32)


# --- log-probabilities ------------------------------------------------------------------------


def _logprobs(
    logits_RV: Tensor, targets: Sequence[int], tops: Sequence[int]
) -> Iterator[TokenLogprob]:
    vocab = logits_RV.shape[-1]
    for chunk in _chunks(range(len(targets)), vocab):
        x_RV = logits_RV[chunk[0] : chunk[-1] + 1].float()
        logprob_RV = torch.log_softmax(x_RV, dim=-1)
        target_R1 = torch.tensor([targets[at] for at in chunk], device=x_RV.device)[:, None]
        own = logprob_RV.gather(-1, target_R1)[:, 0].tolist()
        width = min(max(tops[at] for at in chunk), vocab)
        id_RC = _best_ids(x_RV, width)
        top_ids = id_RC.tolist()
        top_values = logprob_RV.gather(-1, id_RC).tolist()
        for row, at in enumerate(chunk):
            k = min(tops[at], vocab)
            top = zip(top_ids[row][:k], top_values[row][:k], strict=True)
            yield TokenLogprob(token=targets[at], logprob=own[row], top=tuple(top))


def _chunks(items: Sequence[int], vocab: int) -> Iterator[Sequence[int]]:
    size = max(1, _CHUNK_ENTRIES // vocab)
    for start in range(0, len(items), size):
        yield items[start : start + size]
