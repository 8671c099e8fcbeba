"""Hidden states -> log-probabilities of chosen tokens: the primitive under every objective.

    logprob_R = logprobs(hidden_TD[rows_R], decoder.head_VD, targets_T[rows_R])

Legend: R rows that are scored, C rows of a chunk, D model width, V vocabulary.

Invariant: no more than `chunk x V` scores exist at a time, forwards or backwards, whatever R is:
the forward pass keeps one normaliser a row, and the backward pass computes each chunk's scores
again (the idea of Liger Kernel's chunked losses, arXiv 2410.10989). Products run in the
hidden states' type; the softmax and what is returned are float32 (float64 for float64 operands).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = 512


class LogprobsEntropy(NamedTuple):
    """What a model thought of each token, and how undecided it was, in nats."""

    logprob_R: Tensor
    entropy_R: Tensor


def logprobs(
    hidden_RD: Tensor, head_VD: Tensor, targets_R: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """log softmax(hidden @ head.T / temperature)[target] of each row; differentiable once."""
    logprob_R, _ = _Chunked.apply(
        hidden_RD, head_VD.to(hidden_RD.dtype), targets_R, temperature, False
    )
    return logprob_R


def logprobs_entropy(
    hidden_RD: Tensor, head_VD: Tensor, targets_R: Tensor, *, temperature: float = 1.0
) -> LogprobsEntropy:
    """As `logprobs`, and the entropy of each row's distribution; both differentiable once."""
    return LogprobsEntropy(
        *_Chunked.apply(hidden_RD, head_VD.to(hidden_RD.dtype), targets_R, temperature, True)
    )


def scores(hidden_CD: Tensor, head_VD: Tensor, temperature: float = 1.0) -> Tensor:
    """The logits of a chunk of rows, at least float32."""
    logits_CV = hidden_CD @ head_VD.T
    logits_CV = logits_CV.to(wide(logits_CV.dtype))
    return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and softmaxes are taken in."""
    return torch.promote_types(dtype, torch.float32)


class HeadGradient:
    """The head's gradient, added up chunk by chunk in at least float32; nothing where frozen."""

    def __init__(self, head_VD: Tensor, *, wanted: bool) -> None:
        self._dtype = head_VD.dtype
        self._sum_VD = torch.zeros_like(head_VD, dtype=wide(head_VD.dtype)) if wanted else None

    def add(self, grad_CV: Tensor, hidden_CD: Tensor) -> None:
        """What a chunk contributes; both in the head's type."""
        if self._sum_VD is None:
            return
        if self._sum_VD.dtype == grad_CV.dtype:
            self._sum_VD.addmm_(grad_CV.T, hidden_CD)
        else:
            self._sum_VD += grad_CV.T @ hidden_CD

    def total(self) -> Tensor | None:
        """The sum in the head's type; None = not wanted."""
        return None if self._sum_VD is None else self._sum_VD.to(self._dtype)


class _Chunked(torch.autograd.Function):
    """(log-probability, entropy) of each row; entropy is empty where it was not asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        head_VD: Tensor,
        targets_R: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        rows = hidden_RD.shape[0]
        normaliser_R = hidden_RD.new_empty(rows, dtype=wide(hidden_RD.dtype))
        logprob_R = torch.empty_like(normaliser_R)
        entropy_R = torch.empty_like(normaliser_R) if with_entropy else normaliser_R.new_empty(0)
        for start in range(0, rows, CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logits_CV = scores(hidden_RD[chunk], head_VD, temperature)
            normaliser_C = logits_CV.logsumexp(1)
            chosen_C = logits_CV.gather(1, targets_R[chunk, None]).squeeze(1)
            normaliser_R[chunk] = normaliser_C
            logprob_R[chunk] = chosen_C - normaliser_C
            if with_entropy:
                logits_CV -= normaliser_C[:, None]
                entropy_R[chunk] = -(logits_CV.exp() * logits_CV).sum(1)
        ctx.save_for_backward(hidden_RD, head_VD, targets_R, normaliser_R, entropy_R)
        ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return logprob_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides it
        ctx: Any, grad_logprob_R: Tensor, grad_entropy_R: Tensor
    ) -> tuple[Any, ...]:
        hidden_RD, head_VD, targets_R, normaliser_R, entropy_R = ctx.saved_tensors
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden_RD = torch.empty_like(hidden_RD) if wants_hidden else None
        head_gradient = HeadGradient(head_VD, wanted=wants_head)
        for start in range(0, hidden_RD.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            hidden_CD, targets_C1 = hidden_RD[chunk], targets_R[chunk, None]
            grad_C1 = grad_logprob_R[chunk, None]
            logp_CV = scores(hidden_CD, head_VD, ctx.temperature).sub_(normaliser_R[chunk, None])
            # d logprob / d logits = onehot - p;  d entropy / d logits = -p (log p + entropy)
            if ctx.with_entropy:
                slope_CV = (logp_CV + entropy_R[chunk, None]).mul_(grad_entropy_R[chunk, None])
                grad_CV = slope_CV.add_(grad_C1).mul_(logp_CV.exp_()).neg_()
            else:
                grad_CV = logp_CV.exp_().mul_(-grad_C1)
            grad_CV.scatter_add_(1, targets_C1, grad_C1)
            if ctx.temperature != 1.0:
                grad_CV.div_(ctx.temperature)
            grad_CV = grad_CV.to(hidden_RD.dtype)
            if grad_hidden_RD is not None:
                torch.mm(grad_CV, head_VD, out=grad_hidden_RD[chunk])
            head_gradient.add(grad_CV, hidden_CD)
        return grad_hidden_RD, head_gradient.total(), None, None, None
