"""GPTQ never loses to rounding on what it minimises, and stays on the format's grid."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.kernels import tiles
from headrace.model import gptq


def problem(seed: int, rows: int, cols: int, samples: int, spread: float) -> tuple[Tensor, Tensor]:
    """A matrix, and the gram of inputs that are correlated the more the larger `spread`."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(cols, cols, generator=generator) * spread + torch.eye(cols)
    x_TI = torch.randn(samples, cols, generator=generator) @ mix
    x_TI[:, : cols // 8] = 0  # inputs that never fire
    weight_OI = torch.randn(rows, cols, generator=generator)
    weight_OI[0] = 0
    return weight_OI, x_TI.T @ x_TI / samples


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 20),
    cols=st.integers(1, 150),
    samples=st.integers(1, 200),
    spread=st.floats(0, 2),
    format=st.sampled_from(["int8", "int4"]),
    group=st.sampled_from([32, 64, 128]),
)
def test_no_row_is_worse_than_rounded(
    seed: int, rows: int, cols: int, samples: int, spread: float, format: str, group: int
) -> None:
    weight_OI, gram_II = problem(seed, rows, cols, samples, spread)
    fitted = gptq.fit(weight_OI, gram_II, format=format, group=group)
    nearest = tiles.quantize(weight_OI, format, group)
    ours_O = gptq.errors(weight_OI, fitted, gram_II, group)
    theirs_O = gptq.errors(weight_OI, nearest, gram_II, group)
    assert (ours_O <= theirs_O).all()
    assert fitted.q.shape == weight_OI.shape
    assert fitted.q.dtype == torch.int8
    assert fitted.scale.shape == (rows, -(-cols // group))
    assert fitted.scale.dtype == torch.float16
    low, high = tiles.RANGE[format]
    assert low <= int(fitted.q.min())
    assert int(fitted.q.max()) <= high
    again = gptq.fit(weight_OI, gram_II, format=format, group=group)
    assert torch.equal(again.q, fitted.q)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), format=st.sampled_from(["int8", "int4"]))
def test_searched_scales_lose_no_more_than_the_plain_ones(seed: int, format: str) -> None:
    weight_OS = torch.randn(7, 32, generator=torch.Generator().manual_seed(seed))
    scale_O = gptq.search_scales(weight_OS, torch.ones(32), format)

    def loss_O(scale_O: Tensor) -> Tensor:
        q_OS = (weight_OS / scale_O[:, None]).round().clamp(*tiles.RANGE[format])
        return (weight_OS - q_OS * scale_O[:, None]).square().sum(1)

    _, plain_OG = tiles.quantize(weight_OS, format, 32)
    assert (loss_O(scale_O) <= loss_O(plain_OG[:, 0].float()) * (1 + 1e-5)).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_target_makes_drift_good(seed: int) -> None:
    weight_OI, _ = problem(seed, 8, 24, 50, 0.5)
    generator = torch.Generator().manual_seed(seed + 1)
    exact_TI = torch.randn(400, 24, generator=generator)
    drifted_TI = exact_TI @ (torch.eye(24) + 0.1 * torch.randn(24, 24, generator=generator))
    gram_II = drifted_TI.T @ drifted_TI / 400
    drift_II = (exact_TI - drifted_TI).T @ drifted_TI / 400
    target_OI = gptq.toward(weight_OI, gram_II, drift_II, damping=1e-6)
    wanted_TO = exact_TI @ weight_OI.T
    before = (drifted_TI @ weight_OI.T - wanted_TO).norm() / wanted_TO.norm()
    after = (drifted_TI @ target_OI.T - wanted_TO).norm() / wanted_TO.norm()
    assert after < 1e-2 * before  # the drift was linear, so all of it can be undone
    still_OI = gptq.toward(weight_OI, gram_II, torch.zeros(24, 24), damping=0.01)
    torch.testing.assert_close(still_OI, weight_OI)
