"""A matrix and the inputs it meets → integers and scales that change its outputs least.

    fit(weight_OI, gram_II, format="int4", group=32)  minimises  tr((W - Q) gram (W - Q)^T)

where gram is the mean of x x^T over calibration inputs x, and Q = scale[row, group] * q.

Method: GPTQ (Frantar et al. 2022). Columns are rounded one after another, and what rounding one did
to the outputs is made good in those that are still free, through the Cholesky factor of the inverse
gram. The column that matters most comes first (act-order), but a group's columns stay together, so
that its scale can be searched when its turn comes, for the weights as compensation has left them.
`toward` is the asymmetric calibration of GPTAQ (Li et al. 2025) in closed form: weights that, on
the inputs of the half-quantized model, give what the full-precision model gives on its own.

Invariant: no row's error is above that of rounding it to nearest: where compensation lost, that row
is rounded. Deterministic, float32.

Shapes: O outputs, I inputs, G groups, S inputs of a group.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from headrace.kernels import tiles
from headrace.kernels.tiles import RANGE, Quantized

DAMPING = 0.01
"""Of the gram's mean diagonal, added to its diagonal: keeps rare inputs from being ruled by noise
(the paper's value)."""
_LIMITS = tuple(1 - 0.02 * step for step in range(20))
"""Where a group's range may end, as a share of its largest weight."""


def fit(
    weight_OI: Tensor, gram_II: Tensor, *, format: str, group: int, damping: float = DAMPING
) -> Quantized:
    """Fit a matrix to its calibration inputs.

    Args:
        weight_OI: Full precision.
        gram_II: Mean of x x^T over the inputs, float32.
        format: int8 | int4.
        group: Inputs that share a scale; the last group may be shorter.
        damping: See `DAMPING`.
    """
    weight_OI, cols = weight_OI.float(), weight_OI.shape[1]
    beyond = -cols % group
    compensated = compensate(
        # Columns that only fill the last group: their weight is zero and moves nothing.
        pad(weight_OI, (0, beyond)),
        damped(pad(gram_II, (0, beyond, 0, beyond)), damping),
        format,
        group,
    )
    fitted = Quantized(compensated.q[:, :cols].contiguous(), compensated.scale)
    rounded = tiles.quantize(weight_OI, format, group)
    error_O = errors(weight_OI, fitted, gram_II, group)
    lost_O = error_O > errors(weight_OI, rounded, gram_II, group)
    return Quantized(
        torch.where(lost_O[:, None], rounded.q, fitted.q),
        torch.where(lost_O[:, None], rounded.scale, fitted.scale),
    )


def errors(weight_OI: Tensor, fitted: Quantized, gram_II: Tensor, group: int) -> Tensor:
    """Mean squared error of each output over the calibration inputs, `[O]`."""
    off_OI = weight_OI.float() - tiles.dequantize(fitted.q, fitted.scale, group)
    return power(off_OI, gram_II)


def power(weight_OI: Tensor, gram_II: Tensor) -> Tensor:
    """Mean square of each output over the calibration inputs, `[O]`."""
    return ((weight_OI @ gram_II) * weight_OI).sum(1)


def toward(weight_OI: Tensor, gram_II: Tensor, drift_II: Tensor, *, damping: float) -> Tensor:
    """The weights that make good what the quantized layers before changed of the inputs.

    They minimise the mean of |W x' - V x|^2 over V, where x' is the full-precision model's input
    and x the quantized one's: V = W + W drift gram^-1.

    Args:
        weight_OI: W.
        gram_II: Mean of x x^T.
        drift_II: Mean of (x' - x) x^T.
        damping: See `DAMPING`.
    """
    change_OI = torch.linalg.solve(damped(gram_II, damping), (weight_OI @ drift_II).T).T
    return weight_OI + change_OI


def damped(gram_II: Tensor, damping: float) -> Tensor:
    """The gram with a share of its mean diagonal added to its diagonal."""
    mean = float(gram_II.diagonal().mean())
    # Inputs that were never anything but zero leave nothing to scale by.
    return gram_II + torch.eye(len(gram_II)) * (damping * mean if mean > 0 else 1.0)


def compensate(weight_OI: Tensor, gram_II: Tensor, format: str, group: int) -> Quantized:
    """GPTQ itself, for a gram that can be inverted and whole groups."""
    order_I = _order(gram_II.diagonal(), group)
    gram_II = gram_II[order_I][:, order_I]
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(gram_II))
    # Its row i says how an error in column i is made good in the columns after it.
    spread_II = torch.linalg.cholesky(inverse_II, upper=True)
    left_OI = weight_OI[:, order_I]
    q_OI = torch.empty_like(left_OI)
    scales: list[Tensor] = []
    for start in range(0, left_OI.shape[1], group):
        here, after = slice(start, start + group), slice(start + group, None)
        scale_O = search_scales(left_OI[:, here], gram_II.diagonal()[here], format)
        q_OI[:, here], error_OS = _round_group(
            left_OI[:, here], spread_II[here, here], scale_O, format
        )
        left_OI[:, after] -= error_OS @ spread_II[here, after]
        scales.append(scale_O)
    back_I = order_I.argsort()
    back_G = (order_I[::group] // group).argsort()
    return Quantized(q_OI[:, back_I].to(torch.int8), torch.stack(scales, 1)[:, back_G].half())


def search_scales(weight_OS: Tensor, importance_S: Tensor, format: str) -> Tensor:
    """The float16 scale of each row that loses least, squares weighted by importance, as float32.

    The largest weight may be clipped. A scale may be negative: where the integers reach further
    down than up, a row's longer side can have them.
    """
    largest_O = weight_OS.gather(1, weight_OS.abs().argmax(1, keepdim=True)).squeeze(1)
    best_O, least_O = torch.zeros_like(largest_O), torch.full_like(largest_O, torch.inf)
    for end in {abs(end): end for end in RANGE[format]}.values():
        for limit in _LIMITS:
            scale_O = (limit * largest_O / end).half().float()
            off_OS = weight_OS - _round(weight_OS, scale_O[:, None], format) * scale_O[:, None]
            loss_O = (off_OS.square() * importance_S).sum(1)
            better_O = loss_O < least_O
            best_O = torch.where(better_O, scale_O, best_O)
            least_O = torch.where(better_O, loss_O, least_O)
    return best_O


def _order(diagonal_I: Tensor, group: int) -> Tensor:
    """Columns by falling weight of their inputs: first the groups, then within each."""
    diagonal_GS = diagonal_I.unflatten(0, (-1, group))
    groups_G = diagonal_GS.sum(1).argsort(descending=True, stable=True)
    within_GS = diagonal_GS[groups_G].argsort(dim=1, descending=True, stable=True)
    return (groups_G[:, None] * group + within_GS).flatten()


def _round_group(
    left_OS: Tensor, spread_SS: Tensor, scale_O: Tensor, format: str
) -> tuple[Tensor, Tensor]:
    """One group's integers, and what is to be made good after it."""
    left_OS = left_OS.clone()
    q_OS, error_OS = torch.empty_like(left_OS), torch.empty_like(left_OS)
    for i in range(left_OS.shape[1]):
        q_OS[:, i] = _round(left_OS[:, i], scale_O, format)
        error_OS[:, i] = (left_OS[:, i] - q_OS[:, i] * scale_O) / spread_SS[i, i]
        left_OS[:, i:] -= error_OS[:, i, None] * spread_SS[i, i:]
    return q_OS, error_OS


def _round(weight: Tensor, scale: Tensor, format: str) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return (weight * inverse).round().clamp(*RANGE[format])
