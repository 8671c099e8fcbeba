"""GPTQ beside its slow, obvious twin: fix a column, solve the rest again by least squares.

Optimal Brain Quantization (Frantar and Alistarh 2022) with the columns' order given; the Cholesky
form must choose the same integers and scales.
"""

import numpy as np
import pytest
import torch

from headrace.kernels.tiles import RANGE, Quantized
from headrace.model import gptq


def twin(weight_OI: torch.Tensor, gram_II: torch.Tensor, format: str, group: int) -> Quantized:
    """Float64, one linear system a column."""
    gram = gram_II.double().numpy()
    weight = weight_OI.double().numpy()
    diagonal = gram_II.diagonal()
    groups = diagonal.unflatten(0, (-1, group)).sum(1).argsort(descending=True, stable=True)
    q = np.zeros_like(weight)
    scale = np.zeros((len(weight), len(groups)))
    value, left = np.zeros_like(weight), weight.copy()
    free = list(range(weight.shape[1]))
    for g in groups.tolist():
        inside = diagonal[g * group : (g + 1) * group].argsort(descending=True, stable=True)
        columns = (g * group + inside).tolist()
        found = gptq.search_scales(
            torch.from_numpy(left[:, columns]).float(), diagonal[columns], format
        )
        scale[:, g] = found.numpy()
        for column in columns:
            q[:, column] = np.clip(np.round(left[:, column] / scale[:, g]), *RANGE[format])
            value[:, column] = q[:, column] * scale[:, g]
            free.remove(column)
            fixed = [c for c in range(weight.shape[1]) if c not in free]
            if free:  # (W - V)_free gram_ff = -(W - V)_fixed gram_cf, least squares' condition
                off = (weight - value)[:, fixed] @ gram[np.ix_(fixed, free)]
                left[:, free] = weight[:, free] + np.linalg.solve(gram[np.ix_(free, free)], off.T).T
    return Quantized(torch.from_numpy(q).to(torch.int8), torch.from_numpy(scale).half())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_same_integers_and_scales(seed: int, format: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_TI = torch.randn(300, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    weight_OI = torch.randn(9, 64, generator=generator)
    gram_II = gptq.damped(x_TI.T @ x_TI / 300, 0.01)
    fitted = gptq.compensate(weight_OI, gram_II, format, 32)
    expected = twin(weight_OI, gram_II, format, 32)
    # Float32 may fall on the other side of a half now and then; what follows then differs too.
    same = (fitted.q == expected.q).float().mean()
    assert same > 0.97
    torch.testing.assert_close(
        gptq.errors(weight_OI, fitted, gram_II, 32),
        gptq.errors(weight_OI, expected, gram_II, 32),
        rtol=0.05,
        atol=0,
    )
