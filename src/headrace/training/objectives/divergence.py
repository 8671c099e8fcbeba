"""Two models' hidden states -> how far the student's next tokens are from the teacher's.

    loss = divergence(student, teacher, weight_T, Divergence(beta=0.5, temperature=1.0))

Legend: T rows, R rows that count, C rows of a chunk, V vocabulary, D the student's width, E the
teacher's, K the teacher's tokens that are known where only its best are.

    beta 0        forward KL(teacher || student): the student covers what the teacher may say
    beta 1        reverse KL(student || teacher): the student says only what the teacher may say
    in between    generalised Jensen-Shannon: beta KL(teacher || m) + (1 - beta) KL(student || m),
                  m = beta teacher + (1 - beta) student
(GKD, arXiv 2306.13649, equation 1 with TRL's beta; no factor temperature^2, as there.)

Invariant: no more than `chunk x V` scores of each model exist at a time. The gradient is taken
while they are there, as in `cross_entropy`. The teacher gets none.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from headrace.errors import DataError
from headrace.training import logprobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Which one, and how soft both distributions are made first."""

    beta: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0 or not self.temperature > 0.0:
            raise DataError(
                f"no divergence with beta {self.beta}, temperature {self.temperature}; give beta "
                "from 0 (forward KL) to 1 (reverse KL) and a temperature above 0"
            )


class Scored(NamedTuple):
    """A model's final hidden states and the matrix that makes them scores."""

    hidden_TD: Tensor
    head_VD: Tensor


class BestTokens(NamedTuple):
    """The teacher's likeliest tokens of each row, at the divergence's temperature."""

    ids_TK: Tensor
    logprob_TJ: Tensor
    """Of each, and in the last column of any other token; J = K + 1."""


def divergence(student: Scored, teacher: Scored, weight_T: Tensor, kind: Divergence) -> Tensor:
    """The weighted sum over rows, in nats; differentiable once, in the student alone.

    Raises:
        DataError: The two do not share a vocabulary.
    """
    own, others = student.head_VD.shape[0], teacher.head_VD.shape[0]
    if own != others:
        raise DataError(
            f"the student knows {own} tokens and the teacher {others}; only models of one "
            "vocabulary can be compared token by token - distil from the teacher's answers instead"
        )
    return _Fused.apply(
        *_one_type(student), *_one_type(teacher), weight_T, kind, torch.is_grad_enabled()
    )


def divergence_from_best(
    student: Scored, teacher: BestTokens, weight_T: Tensor, kind: Divergence
) -> Tensor:
    """`divergence` where of the teacher only its K best tokens are known.

    Both distributions are looked at as K + 1 outcomes, the last being any other token: a lower
    bound of the full divergence, equal to it where K = V.
    """
    return _Fused.apply(*_one_type(student), *teacher, weight_T, kind, torch.is_grad_enabled())


@torch.no_grad()
def best_tokens(teacher: Scored, k: int, *, temperature: float = 1.0) -> BestTokens:
    """What to store of a teacher so that it need not be run again."""
    teacher = _one_type(teacher)
    rows, vocab = teacher.hidden_TD.shape[0], teacher.head_VD.shape[0]
    width = min(k, vocab)
    wide = logprobs.wide(teacher.hidden_TD.dtype)
    ids_TK = torch.empty(rows, width, dtype=torch.int64, device=teacher.hidden_TD.device)
    logprob_TJ = torch.empty(rows, width + 1, dtype=wide, device=teacher.hidden_TD.device)
    for start in range(0, rows, logprobs.CHUNK_ROWS):
        chunk = slice(start, start + logprobs.CHUNK_ROWS)
        scores_CV = logprobs.scores(teacher.hidden_TD[chunk], teacher.head_VD, temperature)
        logprob_CV = torch.log_softmax(scores_CV, dim=-1)
        best = logprob_CV.topk(width, dim=-1)
        logprob_TJ[chunk, :-1], ids_TK[chunk] = best
        # Summed, not 1 less the others: where little is left, that would be all rounding.
        rest_CV = logprob_CV.scatter_(1, best.indices, -torch.inf)
        logprob_TJ[chunk, -1] = rest_CV.logsumexp(1)
    return BestTokens(ids_TK, logprob_TJ)


def _one_type(scored: Scored) -> Scored:
    """The head in the type of the hidden states, in which the products run."""
    return Scored(scored.hidden_TD, scored.head_VD.to(scored.hidden_TD.dtype))


class _Slope(NamedTuple):
    """A divergence of each row and its derivative by the student's log-probabilities.

    The derivative is up to a multiple of the student's probabilities, which moves no score.
    """

    value_C: Tensor
    by_logp_CV: Tensor


def _slope(s_CV: Tensor, t_CV: Tensor, beta: float) -> _Slope:
    """Of finite log-probabilities, the student's and the teacher's."""
    if beta == 0.0:
        p_CV = t_CV.exp()
        return _Slope((p_CV * (t_CV - s_CV)).sum(1), -p_CV)
    q_CV = s_CV.exp()
    if beta == 1.0:
        by_CV = q_CV * (s_CV - t_CV)
        return _Slope(by_CV.sum(1), by_CV)
    # In logs: where both probabilities are too small for the type, their mixture would be log 0.
    mixed_CV = torch.logaddexp(s_CV + math.log1p(-beta), t_CV + math.log(beta))
    by_CV = (1 - beta) * q_CV * (s_CV - mixed_CV)
    teacher_CV = t_CV.exp() * (t_CV - mixed_CV)
    return _Slope(beta * teacher_CV.sum(1) + by_CV.sum(1), by_CV)


def _against_scores(s_CV: Tensor, t_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(value_C, gradient by the student's scores) from the whole of both distributions."""
    value_C, by_logp_CV = _slope(s_CV, t_CV, beta)
    return value_C, by_logp_CV - s_CV.exp() * by_logp_CV.sum(1, keepdim=True)


def _against_best(s_CV: Tensor, ids_CK: Tensor, t_CJ: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The same where the teacher's K best are known: K outcomes and any other."""
    own_CK = s_CV.gather(1, ids_CK)
    if ids_CK.shape[1] == s_CV.shape[1]:  # there is no other token
        value_C, by_CK = _slope(own_CK, t_CJ[:, :-1], beta)
        grad_CV = torch.zeros_like(s_CV).scatter_(1, ids_CK, by_CK)
        return value_C, grad_CV - s_CV.exp() * by_CK.sum(1, keepdim=True)
    others_CV = s_CV.scatter(1, ids_CK, -torch.inf)
    own_rest_C1 = others_CV.logsumexp(1, keepdim=True)
    value_C, by_CJ = _slope(torch.cat((own_CK, own_rest_C1), 1), t_CJ, beta)
    # A score moves its own outcome by its share of it, and all by its probability.
    grad_CV = (others_CV - own_rest_C1).exp() * by_CJ[:, -1:]
    grad_CV.scatter_(1, ids_CK, by_CJ[:, :-1])
    return value_C, grad_CV - s_CV.exp() * by_CJ.sum(1, keepdim=True)


class _Fused(torch.autograd.Function):
    """Weighted sum of divergences, its gradient known with it.

    `first` and `second` are a teacher's hidden states and head, or the two of `BestTokens`: ids are
    integers, which tells.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        first: Tensor,
        second: Tensor,
        weight_T: Tensor,
        kind: Divergence,
        grad_enabled: bool,
    ) -> Tensor:
        # Inside `forward` gradients are always off, and evaluation should not pay for them.
        wants_hidden, wants_head = (grad_enabled and wanted for wanted in ctx.needs_input_grad[:2])
        grad_hidden_TD = torch.zeros_like(hidden_TD) if wants_hidden else None
        head_gradient = logprobs.HeadGradient(head_VD, wanted=wants_head)
        total = hidden_TD.new_zeros((), dtype=logprobs.wide(hidden_TD.dtype))
        beta, temperature = kind.beta, kind.temperature
        known = not first.is_floating_point()
        for rows_C in weight_T.nonzero().squeeze(1).split(logprobs.CHUNK_ROWS):
            hidden_CD, weight_C = hidden_TD[rows_C], weight_T[rows_C]
            s_CV = torch.log_softmax(logprobs.scores(hidden_CD, head_VD, temperature), dim=-1)
            if known:
                value_C, grad_CV = _against_best(
                    s_CV, first[rows_C], second[rows_C].to(s_CV.dtype), beta
                )
            else:
                t_CV = logprobs.scores(first[rows_C], second, temperature)
                t_CV = torch.log_softmax(t_CV.to(s_CV.dtype), dim=-1)
                value_C, grad_CV = _against_scores(s_CV, t_CV, beta)
            total += (value_C * weight_C).sum()
            if not (wants_hidden or wants_head):
                continue
            grad_CV = (grad_CV * (weight_C[:, None] / temperature)).to(hidden_TD.dtype)
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
            None,
            None,
        )
