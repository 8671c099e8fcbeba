"""The log-prob primitive against the plain formula: values, gradients, memory, frozen parts."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.data.pack import pack
from headrace.training import logprobs, objectives
from headrace.training.task import hidden as forward
from training_fixtures import decoder as tiny
from training_fixtures import rows


class Case(NamedTuple):
    hidden_RD: Tensor
    head_VD: Tensor
    targets_R: Tensor


def _case(rows: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    make = torch.Generator().manual_seed(seed)
    hidden_RD = torch.randn(rows, 6, generator=make, dtype=torch.float64).to(dtype)
    head_VD = torch.randn(11, 6, generator=make, dtype=torch.float64).to(dtype)
    targets_R = torch.randint(11, (rows,), generator=make)
    return Case(hidden_RD.requires_grad_(), head_VD.requires_grad_(), targets_R)


def _plain(case: Case, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    logits_RV = (case.hidden_RD @ case.head_VD.T).to(logprobs.wide(case.hidden_RD.dtype))
    logp_RV = torch.log_softmax(logits_RV / temperature, dim=-1)
    chosen_R = logp_RV.gather(1, case.targets_R[:, None]).squeeze(1)
    return chosen_R, -(logp_RV.exp() * logp_RV).sum(1)


@pytest.mark.parametrize("chunk", [1, 4, 512])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradcheck_with_entropy(
    chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", chunk)
    case = _case(9)

    def both(hidden_RD: Tensor, head_VD: Tensor) -> tuple[Tensor, ...]:
        return logprobs.logprobs_entropy(
            hidden_RD, head_VD, case.targets_R, temperature=temperature
        )

    def alone(hidden_RD: Tensor, head_VD: Tensor) -> Tensor:
        return logprobs.logprobs(hidden_RD, head_VD, case.targets_R, temperature=temperature)

    assert torch.autograd.gradcheck(both, case[:2])
    assert torch.autograd.gradcheck(alone, case[:2])


@given(rows=st.integers(0, 30), seed=st.integers(0, 99), chunk=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_it_is_the_plain_formula_however_it_is_cut(rows: int, seed: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_ROWS", chunk)
        case, twin = _case(rows, seed=seed), _case(rows, seed=seed)
        ours, theirs = logprobs.logprobs_entropy(*case), _plain(twin)
        weight_R = torch.linspace(-1, 2, rows, dtype=torch.float64)
        for mine, plain in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)
        ((ours[0] * weight_R).sum() + ours[1].square().sum()).backward()
        ((theirs[0] * weight_R).sum() + theirs[1].square().sum()).backward()
    torch.testing.assert_close(case.hidden_RD.grad, twin.hidden_RD.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.head_VD.grad, twin.head_VD.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["hidden", "head", "both"])
def test_frozen_parts_get_no_gradient(frozen: str) -> None:
    case, twin = _case(7), _case(7)
    for each in (case, twin):
        each.hidden_RD.requires_grad_(frozen == "head")
        each.head_VD.requires_grad_(frozen == "hidden")
    found_R = logprobs.logprobs(*case)
    assert found_R.requires_grad == (frozen != "both")
    if frozen == "both":
        return
    found_R.sum().backward()
    _plain(twin)[0].sum().backward()
    for mine, plain in zip(case[:2], twin[:2], strict=True):
        assert (mine.grad is None) == (plain.grad is None)
        if plain.grad is not None:
            torch.testing.assert_close(mine.grad, plain.grad)


def test_bfloat16_operands_give_a_float32_softmax() -> None:
    case, twin = _case(40, dtype=torch.bfloat16), _case(40, dtype=torch.bfloat16)
    found_R = logprobs.logprobs(*case)
    assert found_R.dtype == torch.float32
    torch.testing.assert_close(found_R, _plain(twin)[0], rtol=0, atol=1e-6)
    found_R.sum().backward()
    _plain(twin)[0].sum().backward()
    assert case.head_VD.grad is not None
    assert case.head_VD.grad.dtype == torch.bfloat16
    torch.testing.assert_close(case.head_VD.grad, twin.head_VD.grad, rtol=0.02, atol=0.05)
    torch.testing.assert_close(case.hidden_RD.grad, twin.hidden_RD.grad, rtol=0.02, atol=0.05)


class _Widest(TorchDispatchMode):
    """The most elements that one tensor had."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple) else (out,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return out


def test_no_tensor_is_larger_than_a_chunk_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", 8)
    case = _case(300)
    with _Widest() as seen:
        logprobs.logprobs_entropy(*case)[0].sum().backward()
    assert seen.elements == max(8 * 11, 300 * 6)
    with _Widest() as plain:
        _plain(_case(300))[0].sum().backward()
    assert plain.elements == 300 * 11


def test_cross_entropy_is_the_weighted_sum_of_log_probabilities() -> None:
    decoder = tiny(tied=False).double()  # in float32 the two orders of summing differ visibly
    (batch,) = pack(rows(7), max_tokens=999)
    loss = objectives.next_token(forward(decoder, batch), decoder.head_VD, batch)
    loss.sum.backward()
    fused = {name: param.grad for name, param in decoder.named_parameters()}
    decoder.zero_grad()
    targets_T, weight_T = torch.from_numpy(batch.targets_T), torch.from_numpy(batch.weight_T)
    found_T = logprobs.logprobs(forward(decoder, batch), decoder.head_VD, targets_T)
    total = -(found_T * weight_T).sum()
    total.backward()
    torch.testing.assert_close(loss.sum, total)
    for name, param in decoder.named_parameters():
        torch.testing.assert_close(param.grad, fused[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_cross_entropy_with_a_frozen_part(frozen: str) -> None:
    decoder = tiny(tied=False)
    (batch,) = pack(rows(3), max_tokens=999)
    hidden_TD = forward(decoder, batch).detach().requires_grad_(frozen == "head")
    head_VD = decoder.head_VD.detach().requires_grad_(frozen == "hidden")
    objectives.next_token(hidden_TD, head_VD, batch).sum.backward()
    assert (hidden_TD.grad is None) == (frozen == "hidden")
    assert (head_VD.grad is None) == (frozen == "head")
    with torch.no_grad():
        assert not objectives.next_token(hidden_TD, head_VD, batch).sum.requires_grad
