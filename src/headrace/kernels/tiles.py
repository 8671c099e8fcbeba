"""Quantized, packed matrices in plain torch: the native kernels' format, their oracle and stand-in.

A weight [O outputs, I inputs] is cut along I into groups; value = scale * q, with q in -127..127
(int8) or -8..7 (int4) and the scale in float16. Rows of activations are cut and rounded alike, to
int8 with a float32 scale. Packed, sixteen outputs make a tile (layout: native/linear.h).

Invariant: q, scales and packed bytes are equal to the native ones, bit for bit; products are equal
but for the last rounding of float32.

Shapes: O outputs, I inputs, G groups along I, M rows of activations.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

RANGE = {"int8": (-127, 127), "int4": (-8, 7)}
OFFSET = {"int8": 128, "int4": 8}
"""What packed values have on top, to be without sign."""

TILE_OUTPUTS = 16
TINY = 1e-30
"""Activations of groups below are zeros."""


class Quantized(NamedTuple):
    """Whole numbers and what one is worth."""

    q: Tensor
    """int8 [.., I]."""
    scale: Tensor
    """[.., G]: float16 of weights, float32 of activations."""


def quantize(weight_OI: Tensor, format: str, group: int) -> Quantized:
    """Round weights to nearest.

    int8: the scale is max |w| / 127. int4: the value of largest magnitude becomes -8, so that all
    sixteen codes are in use; the scale has its sign.
    """
    w_OGJ = _grouped(weight_OI.float(), group)
    largest_OG1 = w_OGJ.gather(-1, w_OGJ.abs().argmax(-1, keepdim=True))
    step_OG1 = largest_OG1.abs() / 127 if format == "int8" else largest_OG1 / -8
    scale_OG1 = step_OG1.half()
    low, high = RANGE[format]
    q_OGJ = (w_OGJ * _inverse(scale_OG1.float())).round().clamp(low, high).to(torch.int8)
    q_OI = q_OGJ.flatten(-2)[:, : weight_OI.shape[1]].contiguous()
    return Quantized(q_OI, scale_OG1.squeeze(-1))


def dequantize(q_OI: Tensor, scale_OG: Tensor, group: int) -> Tensor:
    """The float32 values that whole numbers and scales stand for."""
    w_OGJ = _grouped(q_OI.float(), group) * scale_OG.float().unsqueeze(-1)
    return w_OGJ.flatten(-2)[..., : q_OI.shape[-1]]


def quantize_activations(x_MI: Tensor, group: int) -> Quantized:
    """Rows to int8, each group against its largest magnitude; NaN where that is not finite."""
    x_MGJ = _grouped(x_MI.float(), group)
    largest_MG1 = x_MGJ.abs().amax(-1, keepdim=True)
    # A tensor: torch takes a number over a tensor as a reciprocal and a product, rounded twice.
    most = torch.tensor(127.0)
    by_MG1 = torch.where(largest_MG1 > TINY, most / largest_MG1, 0.0)
    scale_MG1 = torch.where(by_MG1 == 0, 0.0, largest_MG1 / 127)
    scale_MG1 = scale_MG1.where(largest_MG1.isfinite(), torch.nan)
    q_MGJ = (x_MGJ * by_MG1).round().nan_to_num(0, 0, 0).to(torch.int8)
    return Quantized(q_MGJ.flatten(-2)[..., : x_MI.shape[-1]], scale_MG1.squeeze(-1))


def round_activations(x_MI: Tensor, group: int) -> Tensor:
    """What quantized activations stand for, float32."""
    q_MI, scale_MG = quantize_activations(x_MI, group)
    return dequantize(q_MI, scale_MG, group)


def linear(x_MI: Tensor, q_OI: Tensor, scale_OG: Tensor, group: int) -> Tensor:
    """`x @ w^T` as the native kernels take it: groups as integers, then their sum in order.

    Slow: float64 matrix products, one a group.
    """
    x = quantize_activations(x_MI, group)
    a_MGJ, b_OGJ = _grouped(x.q.double(), group), _grouped(q_OI.double(), group)
    out_MO = torch.zeros(len(x_MI), len(q_OI), dtype=torch.float64)
    for g in range(a_MGJ.shape[1]):
        sums_MO = a_MGJ[:, g] @ b_OGJ[:, g].T
        worth_MO = x.scale[:, g : g + 1] * scale_OG[:, g].float()
        # One rounding, as of a fused multiply-add.
        out_MO = (out_MO + sums_MO * worth_MO.double()).float().double()
    return out_MO.float()


def packed_bytes(format: str, rows: int, cols: int, group: int) -> int:
    """Bytes of a packed matrix; `group` 0 for bf16."""
    tiles = -(-rows // TILE_OUTPUTS)
    if format == "bf16":
        return tiles * -(-cols // 2) * 64
    groups = -(-cols // group)
    return tiles * (-(-groups // 2) * 64 + groups * group * TILE_OUTPUTS // _per_byte(format))


def pack_bf16(weight_OI: Tensor) -> Tensor:
    """bfloat16 weights → packed bytes: of each pair of columns, [16 outputs][2]."""
    rows, cols = weight_OI.shape
    padded = functional.pad(weight_OI, (0, cols % 2, 0, -rows % TILE_OUTPUTS))
    return padded.unflatten(0, (-1, 16)).unflatten(2, (-1, 2)).transpose(1, 2).flatten().view(_BYTE)


def unpack_bf16(packed: Tensor, rows: int, cols: int) -> Tensor:
    """Packed bytes → bfloat16 weights."""
    tiles = packed.view(torch.bfloat16).view(-(-rows // 16), -(-cols // 2), 16, 2)
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)[:rows, :cols].contiguous()


def pack(q_OI: Tensor, scale_OG: Tensor, format: str, group: int) -> Tensor:
    """Whole numbers and scales → packed bytes."""
    rows, cols = q_OI.shape
    below = -rows % TILE_OUTPUTS
    code = functional.pad(q_OI.to(torch.int16), (0, -cols % group, 0, below)) + OFFSET[format]
    # [tiles, 16, groups, group / 4, 4] -> [tiles, groups, group / 4, 16, 4]
    fours = code.to(_BYTE).unflatten(0, (-1, 16)).unflatten(2, (-1, group // 4, 4))
    fours = fours.permute(0, 2, 3, 1, 4)
    if format == "int4":
        fours = fours[:, :, 0::2] | fours[:, :, 1::2] << 4
    values = fours.flatten(2)
    scales = functional.pad(scale_OG, (0, scale_OG.shape[1] % 2, 0, below))
    scales = scales.unflatten(0, (-1, 16)).transpose(1, 2).contiguous().view(_BYTE)
    lines = scales.view(len(values), -1, 64)
    groups = values.shape[1]
    parts: list[Tensor] = []
    for g in range(groups):
        if g % 2 == 0:
            parts.append(lines[:, g // 2])
        parts.append(values[:, g])
    return torch.cat(parts, dim=1).flatten()


def unpack(packed: Tensor, format: str, rows: int, cols: int, group: int) -> Quantized:
    """Packed bytes → whole numbers and scales; the inverse of `pack`."""
    groups, size = -(-cols // group), group * TILE_OUTPUTS // _per_byte(format)
    tiles = packed.view(-(-rows // TILE_OUTPUTS), -1)
    starts = [g // 2 * (64 + 2 * size) for g in range(groups)]
    scales = torch.stack([tiles[:, at + g % 2 * 32 :][:, :32] for g, at in enumerate(starts)], 1)
    values = torch.stack(
        [tiles[:, at + 64 + g % 2 * size :][:, :size] for g, at in enumerate(starts)], 1
    )
    fours = values.unflatten(2, (-1, 16, 4))
    if format == "int4":
        fours = torch.stack((fours & 15, fours >> 4), dim=3).flatten(2, 3)
    code = fours.permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)[:rows, :cols]
    q_OI = (code.to(torch.int16) - OFFSET[format]).to(torch.int8)
    scale_OG = scales.contiguous().view(torch.float16).transpose(1, 2).flatten(0, 1)[:rows]
    return Quantized(q_OI.contiguous(), scale_OG.contiguous())


_BYTE = torch.uint8


def _per_byte(format: str) -> int:
    return 2 if format == "int4" else 1


def _grouped(x: Tensor, group: int) -> Tensor:
    """[.., I] → [.., G, group], with zeros at the end."""
    return functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1 / scale)
