"""Logits become tokens: one `SampleRow` a row, in the order that `types.SamplingParams` states.

Invariants: a row's token depends on its own logits, parameters, history and (seed, choice,
position) only, never on the batch; ties go to the lowest id; a row that cannot be sampled becomes
`Unsampled` and leaves the others alone. Log-probabilities are of the raw logits.
Shapes: R rows, V vocabulary, C candidates, E edited entries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.engine.draws import uniform
from headrace.errors import InvalidParameter, ServiceError
from headrace.types import SamplingParams, TokenLogprob

# Entries of a [rows, V] work tensor: 32 MiB in float64, so that a large vocabulary times many rows
# does not triple the engine's memory for a moment.
_CHUNK_ENTRIES = 4 << 20
_LOW_32 = (1 << 32) - 1


class History:
    """The distinct tokens of one choice and how often its completion has each; O(1) per token.

    Only penalties read it: `History.of` gives None where a request has none.
    """

    __slots__ = ("_counts", "_ids", "_slots")

    def __init__(self, *, prompt: Sequence[int] = ()) -> None:
        seen = np.unique(np.asarray(prompt, dtype=np.int64))
        self._ids: NDArray[np.int64] = np.zeros(max(64, 2 * len(seen)), dtype=np.int64)
        self._ids[: len(seen)] = seen
        self._counts: NDArray[np.float32] = np.zeros(len(self._ids), dtype=np.float32)
        self._slots: dict[int, int] = {int(token): slot for slot, token in enumerate(seen)}

    @classmethod
    def of(cls, sampling: SamplingParams, prompt: Sequence[int]) -> "History | None":
        """What these parameters need; the prompt counts for the repetition penalty alone."""
        if sampling.repetition_penalty != 1.0:
            return cls(prompt=prompt)
        if sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0:
            return cls()
        return None

    def push(self, token: int) -> None:
        """Book one token of the completion."""
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """Distinct tokens, in order of first sight; a view."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """Occurrences in the completion, beside `ids`; 0 = in the prompt only. A view."""
        return self._counts[: len(self._slots)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRow:
    """What one row of logits is sampled with."""

    sampling: SamplingParams
    seed: int
    choice: int
    position: int
    """Index of the token within the completion = tokens it has so far."""
    history: History | None = None
    """Needed where `History.of` gives one; up to date with the completion."""
    end_ids: Sequence[int] = ()
    """Tokens that would end the choice (end of sequence, stop ids): forbidden while
    `position` < min_tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    token: int
    logprob: TokenLogprob | None = None
    """Where `sampling.logprobs` is not None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsampled:
    """A row without a token; only its own request fails."""

    reason: str


Outcome: TypeAlias = Sampled | Unsampled


def check_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuse ids that this model does not have, before they can disturb a batch.

    Raises: InvalidParameter
    """
    for name, ids in (
        ("logit_bias", [token for token, _ in sampling.logit_bias]),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise InvalidParameter(
                    f"`{name}` names token {token}, but this model's ids are 0 to {vocab_size - 1}",
                    param=name,
                )


def sample(logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Outcome]:
    """Draw one token per row.

    Args:
        logits_RV: The model's float32 logits; not changed.
        rows: As many as logits_RV has rows.
    """
    if not rows:
        return []
    with torch.inference_mode():
        scores_RV = _edited(logits_RV, rows)
        raw_ok_R = _finite(logits_RV)
        best_R, token_R = scores_RV.max(dim=-1)
        random = [r for r, row in enumerate(rows) if row.sampling.temperature > 0.0]
        if random:
            token_R[torch.tensor(random, device=token_R.device)] = _drawn(scores_RV, rows, random)
        possible = torch.isfinite(best_R).tolist()
        raw_ok: list[bool] = raw_ok_R.tolist()
        tokens: list[int] = token_R.tolist()
        scored = [
            r for r, row in enumerate(rows) if row.sampling.logprobs is not None and raw_ok[r]
        ]
        logprobs = dict(
            zip(
                scored,
                _logprobs(
                    logits_RV,
                    scored,
                    [tokens[r] for r in scored],
                    [rows[r].sampling.logprobs or 0 for r in scored],
                ),
                strict=True,
            )
        )
    outcomes: list[Outcome] = []
    for r, row in enumerate(rows):
        if not raw_ok[r]:
            outcomes.append(Unsampled(reason="the model's logits are not finite (NaN or infinity)"))
        elif not possible[r]:
            outcomes.append(Unsampled(reason=_why_impossible(row)))
        else:
            outcomes.append(Sampled(token=tokens[r], logprob=logprobs.get(r)))
    return outcomes


def prompt_logprobs(logits_TV: Tensor, targets: Sequence[int], *, k: int) -> list[TokenLogprob]:
    """Score targets[t] under row t, with the k best, `k` beyond the vocabulary meaning all of it.

    Raises: ServiceError where the logits are not finite.
    """
    with torch.inference_mode():
        if not bool(_finite(logits_TV).all()):
            raise ServiceError(
                "the model's logits over the prompt are not finite (NaN or infinity)"
            )
        picks = range(len(targets))
        return list(_logprobs(logits_TV, picks, targets, [k] * len(targets)))


def _finite(x_RV: Tensor) -> Tensor:
    low_R, high_R = torch.aminmax(x_RV, dim=-1)  # both propagate NaN
    return torch.isfinite(low_R) & torch.isfinite(high_R)


def _why_impossible(row: SampleRow) -> str:
    if row.position < row.sampling.min_tokens and row.end_ids:
        return "logit_bias, penalties and min_tokens together leave no token to choose"
    return "logit_bias and penalties leave no finite score to choose from"


# --- edits: logit_bias, the three penalties, min_tokens ---------------------------------------


def _edited(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The scores after every edit; logits_RV itself where no row has one."""
    scores_RV = logits_RV
    for wanted, apply in (
        (_wants_bias, _add_bias),
        (_wants_repetition, _penalize_repetition),
        (_wants_counts, _penalize_counts),
        (_wants_min_tokens, _forbid_ends),
    ):
        picks = [r for r, row in enumerate(rows) if wanted(row)]
        if picks:
            if scores_RV is logits_RV:
                scores_RV = logits_RV.clone()
            apply(scores_RV, rows, picks)
    return scores_RV


def _wants_bias(row: SampleRow) -> bool:
    return bool(row.sampling.logit_bias)


def _wants_repetition(row: SampleRow) -> bool:
    return row.sampling.repetition_penalty != 1.0


def _wants_counts(row: SampleRow) -> bool:
    return row.sampling.frequency_penalty != 0.0 or row.sampling.presence_penalty != 0.0


def _wants_min_tokens(row: SampleRow) -> bool:
    return row.position < row.sampling.min_tokens and len(row.end_ids) > 0


def _add_bias(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    entries = [(r, token, bias) for r in picks for token, bias in rows[r].sampling.logit_bias]
    row_E, id_E, bias_E = zip(*entries, strict=True)
    where = _where(scores_RV, row_E, id_E)
    scores_RV.index_put_(where, _floats(scores_RV, bias_E), accumulate=True)


def _penalize_repetition(
    scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]
) -> None:
    def penalties(row: SampleRow, history: History) -> NDArray[np.float32]:
        return np.full(len(history.ids), row.sampling.repetition_penalty, dtype=np.float32)

    where, penalty_E = _history_entries(scores_RV, rows, picks, penalties)
    x_E = scores_RV[where]
    scores_RV[where] = torch.where(x_E > 0, x_E / penalty_E, x_E * penalty_E)


def _penalize_counts(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    def penalties(row: SampleRow, history: History) -> NDArray[np.float32]:
        frequency = np.float32(row.sampling.frequency_penalty)
        presence = np.float32(row.sampling.presence_penalty)
        return frequency * history.counts + presence * (history.counts > 0)

    where, penalty_E = _history_entries(scores_RV, rows, picks, penalties)
    scores_RV[where] -= penalty_E


def _forbid_ends(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    entries = [(r, token) for r in picks for token in rows[r].end_ids]
    row_E, id_E = zip(*entries, strict=True)
    scores_RV[_where(scores_RV, row_E, id_E)] = -torch.inf


def _history_entries(
    scores_RV: Tensor,
    rows: Sequence[SampleRow],
    picks: Sequence[int],
    penalties: Callable[[SampleRow, History], NDArray[np.float32]],
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    row_parts: list[NDArray[np.int64]] = []
    id_parts: list[NDArray[np.int64]] = []
    penalty_parts: list[NDArray[np.float32]] = []
    for r in picks:
        history = rows[r].history
        assert history is not None, "a row with penalties comes with its history"
        row_parts.append(np.full(len(history.ids), r, dtype=np.int64))
        id_parts.append(history.ids)
        penalty_parts.append(penalties(rows[r], history))
    where = _where(scores_RV, np.concatenate(row_parts), np.concatenate(id_parts))
    return where, _floats(scores_RV, np.concatenate(penalty_parts))


def _where(
    scores_RV: Tensor,
    row_E: Sequence[int] | NDArray[np.int64],
    id_E: Sequence[int] | NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    device = scores_RV.device
    return torch.as_tensor(row_E, device=device), torch.as_tensor(id_E, device=device)


def _floats(scores_RV: Tensor, values_E: Sequence[float] | NDArray[np.float32]) -> Tensor:
    return torch.as_tensor(values_E, dtype=scores_RV.dtype, device=scores_RV.device)


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
    logits_RV: Tensor, picks: Sequence[int], tokens: Sequence[int], ks: Sequence[int]
) -> Iterator[TokenLogprob]:
    vocab = logits_RV.shape[-1]
    for chunk in _chunks(range(len(picks)), vocab):
        x_RV = logits_RV[[picks[at] for at in chunk]].float()
        logprob_RV = torch.log_softmax(x_RV, dim=-1)
        target_R1 = torch.tensor([tokens[at] for at in chunk], device=x_RV.device)[:, None]
        own = logprob_RV.gather(-1, target_R1)[:, 0].tolist()
        width = min(max(ks[at] for at in chunk), vocab)
        id_RC = _best_ids(x_RV, width)
        top_ids = id_RC.tolist()
        top_values = logprob_RV.gather(-1, id_RC).tolist()
        for row, at in enumerate(chunk):
            k = min(ks[at], vocab)
            top = zip(top_ids[row][:k], top_values[row][:k], strict=True)
            yield TokenLogprob(token=tokens[at], logprob=own[row], top=tuple(top))


def _chunks(items: Sequence[int], vocab: int) -> Iterator[Sequence[int]]:
    size = max(1, _CHUNK_ENTRIES // vocab)
    for start in range(0, len(items), size):
        yield items[start : start + size]
