"""A decoder and packed answers -> each answer's log-probability, summed over its tokens.

Legend: T tokens of a batch, R rows that are scored, S documents of a batch, N rows of a data set.
Sums and what follows from them are float64: answers of thousands of tokens are compared to the
sixth place, and there are few of them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from headrace.data.pack import PackedBatch, TokenRow
from headrace.model.decoder import Decoder
from headrace.training.logprobs import logprobs
from headrace.training.preference.batches import Floats, bundled
from headrace.training.recipe import rows_hash
from headrace.training.task import hidden


def token_logps(decoder: Decoder, batch: PackedBatch, wanted_T: npt.NDArray[np.bool_]) -> Tensor:
    """log pi(target) where it is wanted and 0 elsewhere, float64 `[T]`; differentiable."""
    hidden_TD = hidden(decoder, batch)
    device = hidden_TD.device
    rows_R = torch.from_numpy(np.flatnonzero(wanted_T)).to(device)
    targets_R = torch.from_numpy(batch.targets_T).to(device)[rows_R]
    logprob_R = logprobs(hidden_TD[rows_R], decoder.head_VD, targets_R).double()
    return logprob_R.new_zeros(len(wanted_T)).index_put((rows_R,), logprob_R)


def document_sums(value_T: Tensor, batch: PackedBatch) -> Tensor:
    """The sum over each document, `[S]`; in the order of its tokens, so it is reproducible."""
    return torch.stack([part.sum() for part in value_T.split(np.bincount(batch.doc_T).tolist())])


def answer_logps(decoder: Decoder, batch: PackedBatch) -> Tensor:
    """log pi of each document's supervised tokens, float64 `[S]`; differentiable."""
    return document_sums(token_logps(decoder, batch, batch.weight_T != 0), batch)


@torch.no_grad()
def row_logps(decoder: Decoder, rows: Sequence[TokenRow], *, max_tokens: int) -> Floats:
    """log pi of each row's supervised tokens, `[N]`, in batches of at most `max_tokens`."""
    found_N = np.zeros(len(rows))
    for bundle in bundled([(row,) for row in rows], max_tokens=max_tokens):
        found_N[list(bundle.groups)] = answer_logps(decoder, bundle.packed).cpu().numpy()
    return found_N


def reference_logps(
    decoder: Decoder,
    rows: Sequence[TokenRow],
    *,
    max_tokens: int,
    cache: Path,
    fingerprint: str,
) -> Floats:
    """As `row_logps`, kept in a file, so that a resumed run need not compute them again.

    Args:
        decoder: The reference: the model as it is before the first step.
        rows: What to score.
        max_tokens: Positions a forward pass may hold.
        cache: The file, trusted if it is of the same model and rows.
        fingerprint: Of the decoder's weights.
    """
    key = f"{fingerprint}/{rows_hash(rows)}"
    found_N = _cached(cache, key)
    if found_N is None:
        found_N = row_logps(decoder, rows, max_tokens=max_tokens)
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        save_file({"logps": found_N}, partial, metadata={"key": key})
        partial.replace(cache)
    return found_N


def _cached(cache: Path, key: str) -> Floats | None:
    try:
        with safe_open(cache, framework="numpy") as file:
            if (file.metadata() or {}).get("key") == key:
                return np.asarray(file.get_tensor("logps"), np.float64)
    except (OSError, SafetensorError):
        return None  # absent or damaged: it is computed again
    return None
