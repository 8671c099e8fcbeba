"""Hidden states and targets -> a loss as (sum, weight): pure functions, one a method.

Legend: T tokens of a batch, D model width, V vocabulary.

Sums and weights rather than means: micro-batches with unequal numbers of supervised tokens then
add up to exactly the big batch. The logits of a whole batch never exist: the head is applied to
chunks of rows, and each chunk's gradient is taken on the spot (the idea of Liger Kernel's fused
linear cross entropy, arXiv 2410.10989), so memory is `chunk x V` whatever T is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headrace.data.pack import PackedBatch
from headrace.errors import DataError

CHUNK_ROWS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A sum over supervised tokens, in nats, and how many tokens (by weight) it is over."""

    sum: Tensor
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def next_token(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    """Cross entropy of every next token: pre-training."""
    return _cross_entropy(hidden_TD, head_VD, batch)


def sft(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    """Cross entropy of the supervised tokens alone: chat tuning.

    Raises:
        DataError: A document in which nothing is supervised; it would train on nothing, silently.
    """
    for document in range(int(batch.doc_T[-1]) + 1):
        if not batch.weight_T[batch.doc_T == document].any():
            raise DataError(
                f"document {document} of the batch has no supervised token; its mask is empty - "
                "give it an assistant message, or drop it"
            )
    return _cross_entropy(hidden_TD, head_VD, batch)


def _cross_entropy(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    weight_T = torch.from_numpy(batch.weight_T)
    targets_T = torch.from_numpy(batch.targets_T)
    total = _ChunkedCrossEntropy.apply(hidden_TD, head_VD, targets_T, weight_T)
    return Loss(sum=total, weight=float(weight_T.sum()))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted sum of -log softmax(hidden @ head.T)[target]."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor, weight_T: Tensor
    ) -> Tensor:
        wants_grad = hidden_TD.requires_grad or head_VD.requires_grad
        grad_hidden_TD = torch.zeros_like(hidden_TD) if wants_grad else None
        grad_head_VD = torch.zeros_like(head_VD) if wants_grad else None
        total = torch.zeros((), dtype=torch.float32)
        # Only rows that count meet the head: in chat tuning that is a third of them.
        rows_R = weight_T.nonzero().squeeze(1)
        for chunk_R in rows_R.split(CHUNK_ROWS):
            hidden_RD, weight_R = hidden_TD[chunk_R], weight_T[chunk_R]
            targets_R1 = targets_T[chunk_R, None]
            logprobs_RV = torch.log_softmax((hidden_RD @ head_VD.T).float(), dim=-1)
            total -= (logprobs_RV.gather(1, targets_R1).squeeze(1) * weight_R).sum()
            if grad_hidden_TD is not None and grad_head_VD is not None:
                grad_RV = logprobs_RV.exp_()
                grad_RV.scatter_add_(
                    1, targets_R1, torch.full_like(targets_R1, -1, dtype=torch.float32)
                )
                grad_RV *= weight_R[:, None]
                grad_RV = grad_RV.to(hidden_TD.dtype)
                grad_hidden_TD[chunk_R] = grad_RV @ head_VD
                grad_head_VD.addmm_(grad_RV.T, hidden_RD)
        ctx.save_for_backward(grad_hidden_TD, grad_head_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_TD, grad_head_VD = ctx.saved_tensors
        return grad_hidden_TD * grads[0], grad_head_VD * grads[0], None, None
