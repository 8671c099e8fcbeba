"""Divergences between two models, against the plain formulas: values, gradients, what is known."""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.errors import DataError
from headrace.training import logprobs
from headrace.training.objectives.divergence import (
    Divergence,
    Scored,
    best_tokens,
    divergence,
    divergence_from_best,
)

VOCAB = 11


class Case(NamedTuple):
    student: Scored
    teacher: Scored
    weight_T: Tensor


def _case(rows: int, seed: int = 0, *, spread: float = 1.0) -> Case:
    make = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    student = Scored(random(rows, 6).requires_grad_(), random(VOCAB, 6).requires_grad_())
    teacher = Scored(random(rows, 4) * spread, random(VOCAB, 4))
    return Case(student, teacher, torch.rand(rows, generator=make).round(decimals=1).double())


def _logp(scored: Scored, temperature: float) -> Tensor:
    return torch.log_softmax(scored.hidden_TD @ scored.head_VD.T / temperature, dim=-1)


def _plain(case: Case, kind: Divergence) -> Tensor:
    s_TV, t_TV = _logp(case.student, kind.temperature), _logp(case.teacher, kind.temperature)
    p_TV, q_TV = t_TV.exp(), s_TV.exp()
    if kind.beta == 0:
        value_T = (p_TV * (p_TV / q_TV).log()).sum(1)
    elif kind.beta == 1:
        value_T = (q_TV * (q_TV / p_TV).log()).sum(1)
    else:
        m_TV = kind.beta * p_TV + (1 - kind.beta) * q_TV
        value_T = kind.beta * (p_TV * (p_TV / m_TV).log()).sum(1)
        value_T = value_T + (1 - kind.beta) * (q_TV * (q_TV / m_TV).log()).sum(1)
    return (value_T * case.weight_T).sum()


@given(
    rows=st.integers(0, 20),
    seed=st.integers(0, 99),
    chunk=st.integers(1, 30),
    beta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_are_the_formula_s(
    rows: int, seed: int, chunk: int, beta: float, temperature: float
) -> None:
    kind, case, again = (
        Divergence(beta=beta, temperature=temperature),
        _case(rows, seed),
        _case(rows, seed),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_ROWS", chunk)
        ours = divergence(case.student, case.teacher, case.weight_T, kind)
        (3 * ours).backward()
    plain = _plain(again, kind)
    (3 * plain).backward()
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    for own, other in zip(case.student, again.student, strict=True):
        assert own.grad is not None
        expected = torch.zeros_like(own) if other.grad is None else other.grad
        torch.testing.assert_close(own.grad, expected, rtol=1e-8, atol=1e-12)
    assert float(ours.detach()) >= -1e-12


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_equal_models_differ_by_nothing(beta: float) -> None:
    case = _case(5)
    same = Scored(case.student.hidden_TD.detach(), case.student.head_VD.detach())
    loss = divergence(case.student, same, case.weight_T, Divergence(beta=beta))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-14
    assert case.student.hidden_TD.grad is not None
    assert float(case.student.hidden_TD.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_two_outcomes_by_hand(beta: float) -> None:
    """q = 1/4, 3/4 and p = 1/2, 1/2; the sums were done by hand."""
    q_D = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    p_D = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    eye = torch.eye(2, dtype=torch.float64)
    loss = divergence(Scored(q_D, eye), Scored(p_D, eye), torch.ones(1), Divergence(beta=beta))
    by_hand = {
        0.0: 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        1.0: 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
        # m = 0.3 (1/2, 1/2) + 0.7 (1/4, 3/4) = (0.325, 0.675)
        0.3: 0.3 * (0.5 * math.log(0.5 / 0.325) + 0.5 * math.log(0.5 / 0.675))
        + 0.7 * (0.25 * math.log(0.25 / 0.325) + 0.75 * math.log(0.75 / 0.675)),
    }
    assert float(loss) == pytest.approx(by_hand[beta], abs=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 4, VOCAB])
def test_gradcheck_with_the_teacher_s_best(beta: float, k: int) -> None:
    case = _case(7)
    kind = Divergence(beta=beta, temperature=1.5)
    best = best_tokens(case.teacher, k, temperature=kind.temperature)

    def loss(hidden_TD: Tensor, head_VD: Tensor) -> Tensor:
        return divergence_from_best(Scored(hidden_TD, head_VD), best, case.weight_T, kind)

    assert torch.autograd.gradcheck(loss, tuple(case.student))


@given(seed=st.integers(0, 99), beta=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_knowing_more_of_the_teacher_never_lowers_the_divergence(seed: int, beta: float) -> None:
    case, kind = _case(6, seed), Divergence(beta=beta)
    whole = float(divergence(case.student, case.teacher, case.weight_T, kind).detach())
    found = [
        float(
            divergence_from_best(
                case.student, best_tokens(case.teacher, k), case.weight_T, kind
            ).detach()
        )
        for k in range(1, VOCAB + 1)
    ]
    assert found[-1] == pytest.approx(whole, abs=1e-12)
    assert all(low <= high + 1e-12 for low, high in pairwise(found))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_extreme_scores_stay_finite(beta: float) -> None:
    case = _case(6, spread=300.0)
    student = Scored(
        (case.student.hidden_TD.detach() * 300).float().requires_grad_(),
        case.student.head_VD.detach().float().requires_grad_(),
    )
    teacher = Scored(case.teacher.hidden_TD.float(), case.teacher.head_VD.float())
    for loss in (
        divergence(student, teacher, case.weight_T.float(), Divergence(beta=beta)),
        divergence_from_best(
            student, best_tokens(teacher, 3), case.weight_T.float(), Divergence(beta=beta)
        ),
    ):
        loss.backward()
        assert bool(loss.isfinite())
        for part in student:
            assert part.grad is not None
            assert bool(part.grad.isfinite().all())


class _Largest(TorchDispatchMode):
    """The most elements that any tensor has."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_full_scores_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 8)
    rows, vocab, width = 64, 100, 4
    student = Scored(
        torch.randn(rows, width, requires_grad=True), torch.randn(vocab, width, requires_grad=True)
    )
    teacher = Scored(torch.randn(rows, width), torch.randn(vocab, width))
    with _Largest() as seen:
        divergence(student, teacher, torch.ones(rows), Divergence()).backward()
    assert seen.largest <= 8 * vocab


def test_models_of_two_vocabularies_are_refused() -> None:
    case = _case(3)
    other = Scored(case.teacher.hidden_TD, case.teacher.head_VD[:-1])
    with pytest.raises(DataError, match=r"knows 11 tokens and the teacher 10.*answers instead"):
        divergence(case.student, other, case.weight_T, Divergence())


@pytest.mark.parametrize(("beta", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0)])
def test_what_is_no_divergence_is_refused(beta: float, temperature: float) -> None:
    with pytest.raises(DataError, match="no divergence"):
        Divergence(beta=beta, temperature=temperature)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_lower_precision_is_near(beta: float) -> None:
    """Hidden states in bfloat16 over float32 heads: what training in lower precision gives."""
    case, kind = _case(9), Divergence(beta=beta)
    whole = divergence(case.student, case.teacher, case.weight_T, kind)
    whole.backward()
    hidden_TD = case.student.hidden_TD.detach().bfloat16().requires_grad_()
    head_VD = case.student.head_VD.detach().float().requires_grad_()
    teacher = Scored(case.teacher.hidden_TD.bfloat16(), case.teacher.head_VD.float())
    low = divergence(Scored(hidden_TD, head_VD), teacher, case.weight_T.float(), kind)
    low.backward()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), whole, rtol=0.03, atol=0.03)
    assert hidden_TD.grad is not None
    assert head_VD.grad is not None
    assert head_VD.grad.dtype == torch.float32
    assert case.student.head_VD.grad is not None
    torch.testing.assert_close(head_VD.grad.double(), case.student.head_VD.grad, rtol=0.1, atol=0.1)
