"""Cross entropy of next tokens, supervised all (pre-training) or in part (chat tuning).

Legend: T tokens of a batch, R rows that count, C rows of a chunk, D model width, V vocabulary.

This is `-(weight * logprobs(...)).sum()`, and its gradient is known before the backward pass: it is
taken while each chunk's scores are there, which saves the product that `logprobs` repeats (Liger
Kernel's fused linear cross entropy, arXiv 2410.10989). Measured on a CPU in float32: 17 % less time
than through `logprobs` for 2048 rows over 4096 words, 26 % for 1024 over 32768.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.training import logprobs
from headrace.training.objectives.loss import Loss


def next_token(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    """Cross entropy of every next token: pre-training."""
    return _cross_entropy(hidden_TD, head_VD, batch)


def sft(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    """Cross entropy of the supervised tokens alone: chat tuning.

    Raises:
        DataError: A document in which nothing is supervised; it would train on nothing, silently.
    """
    supervised = np.bincount(batch.doc_T, weights=batch.weight_T != 0)
    if not supervised.all():
        raise DataError(
            f"document {int(supervised.argmin())} of the batch has no supervised token; its mask "
            "is empty - give it an assistant message, or drop it"
        )
    return _cross_entropy(hidden_TD, head_VD, batch)


def _cross_entropy(hidden_TD: Tensor, head_VD: Tensor, batch: PackedBatch) -> Loss:
    weight_T = torch.from_numpy(batch.weight_T).to(hidden_TD.device)
    targets_T = torch.from_numpy(batch.targets_T).to(hidden_TD.device)
    head_VD = head_VD.to(hidden_TD.dtype)
    total = _Fused.apply(hidden_TD, head_VD, targets_T, weight_T, torch.is_grad_enabled())
    return Loss(sum=total, weight=float(batch.weight_T.sum(dtype="float64")))


class _Fused(torch.autograd.Function):
    """Weighted sum of -log softmax(hidden @ head.T)[target]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        targets_T: Tensor,
        weight_T: Tensor,
        grad_enabled: bool,
    ) -> Tensor:
        # Inside `forward` gradients are always off, and evaluation should not pay for them.
        wants_hidden, wants_head = (grad_enabled and wanted for wanted in ctx.needs_input_grad[:2])
        grad_hidden_TD = torch.zeros_like(hidden_TD) if wants_hidden else None
        head_gradient = logprobs.HeadGradient(head_VD, wanted=wants_head)
        total = hidden_TD.new_zeros((), dtype=logprobs.wide(hidden_TD.dtype))
        # Only rows that count meet the head: in chat tuning that is a third of them.
        rows_R = weight_T.nonzero().squeeze(1)
        for rows_C in rows_R.split(logprobs.CHUNK_ROWS):
            hidden_CD, weight_C = hidden_TD[rows_C], weight_T[rows_C]
            targets_C1 = targets_T[rows_C, None]
            logp_CV = torch.log_softmax(logprobs.scores(hidden_CD, head_VD), dim=-1)
            total -= (logp_CV.gather(1, targets_C1).squeeze(1) * weight_C).sum()
            if not (wants_hidden or wants_head):
                continue
            grad_CV = logp_CV.exp_()
            grad_CV.scatter_add_(1, targets_C1, grad_CV.new_full(targets_C1.shape, -1.0))
            grad_CV = grad_CV.mul_(weight_C[:, None]).to(hidden_TD.dtype)
            if grad_hidden_TD is not None:
                grad_hidden_TD[rows_C] = grad_CV @ head_VD
            head_gradient.add(grad_CV, hidden_CD)
        ctx.save_for_backward(grad_hidden_TD, head_gradient.total())
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides it
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_hidden_TD, grad_head_VD = ctx.saved_tensors
        return (
            None if grad_hidden_TD is None else grad_hidden_TD * grad,
            None if grad_head_VD is None else grad_head_VD * grad,
            None,
            None,
            None,
        )
