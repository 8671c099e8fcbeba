"""Integers and scales ⇄ the native kernels' tiles (kernels/native/linear.h), plainly in torch.

A stand-in until `kernels.tiles` is there; deleted then.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad as _pad

RANGE = {"int8": (-127, 127), "int4": (-8, 7)}


def _grouped(x: Tensor, group: int) -> Tensor:
    return _pad(x.float(), (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))


def quantize(weight_OI: Tensor, format: str, group: int) -> tuple[Tensor, Tensor]:
    w_OGI = _grouped(weight_OI, group)
    if format == "int8":
        scale_OG = w_OGI.abs().amax(-1) / 127
    else:
        place = w_OGI.abs().argmax(-1, keepdim=True)
        scale_OG = w_OGI.gather(-1, place).squeeze(-1) / -8
    scale_OG = scale_OG.half()
    low, high = RANGE[format]
    s = scale_OG.float().unsqueeze(-1)
    inv = torch.where(s == 0, 0.0, 1 / s)
    q = (w_OGI * inv).round().clamp(low, high).flatten(1).to(torch.int8)
    return q[:, : weight_OI.shape[1]].contiguous(), scale_OG


def dequantize(q_OI: Tensor, scale_OG: Tensor, group: int) -> Tensor:
    return (_grouped(q_OI, group) * scale_OG.float().unsqueeze(-1)).flatten(1)[:, : q_OI.shape[1]]


def round_activations(x: Tensor, group: int) -> Tensor:
    x_G = _grouped(x, group)
    top = x_G.abs().amax(-1, keepdim=True)
    inv = torch.where(top == 0, 0.0, 127 / top)
    return ((x_G * inv).round() * (top / 127)).flatten(-2)[..., : x.shape[-1]]


def packed_bytes(format: str, rows: int, cols: int, group: int) -> int:
    """Bytes of a packed matrix."""
    groups = -(-cols // group)
    values = group if format == "int8" else group // 2
    return -(-rows // 16) * (-(-groups // 2) * 64 + groups * 16 * values)


def pack(q_OI: Tensor, scale_OG: Tensor, format: str, group: int) -> Tensor:
    """Tiles of 16 rows: two groups' scales, then the groups."""
    q_OI = _pad(q_OI, (0, -q_OI.shape[1] % group, 0, -q_OI.shape[0] % 16))
    groups = scale_OG.shape[1]
    scale_OG = _pad(scale_OG, (0, groups % 2, 0, len(q_OI) - len(scale_OG)))
    offset = 128 if format == "int8" else 8
    byte = (q_OI.to(torch.int16) + offset).to(torch.uint8)
    # [tile, lane, group, four, 4] -> [tile, group, four, lane, 4]
    byte = byte.reshape(-1, 16, groups, group // 4, 4).permute(0, 2, 3, 1, 4)
    if format == "int4":
        byte = byte[:, :, ::2] | byte[:, :, 1::2] << 4
    byte = byte.reshape(len(byte), groups, -1)
    scales = scale_OG.reshape(-1, 16, len(scale_OG[0]) // 2, 2).permute(0, 2, 3, 1).contiguous()
    scales = scales.view(torch.uint8).reshape(len(byte), -1, 64)
    parts: list[Tensor] = []
    for pair in range(scales.shape[1]):
        parts += [scales[:, pair], byte[:, 2 * pair : 2 * pair + 2].flatten(1)]
    return torch.cat(parts, 1).flatten()


def unpack(packed: Tensor, format: str, rows: int, cols: int, group: int) -> tuple[Tensor, Tensor]:
    """What `pack` was given."""
    groups = -(-cols // group)
    size = 16 * (group if format == "int8" else group // 2)
    tile = packed.reshape(-(-rows // 16), -1)
    scales: list[Tensor] = []
    values: list[Tensor] = []
    at = 0
    for first in range(0, groups, 2):
        scales.append(tile[:, at : at + 64])
        count = min(2, groups - first)
        values.append(tile[:, at + 64 : at + 64 + count * size])
        at += 64 + count * size
    scale = torch.cat(scales, 1).contiguous().view(torch.float16).reshape(len(tile), -1, 16)
    scale_OG = scale[:, :groups].transpose(1, 2).reshape(-1, groups)[:rows].contiguous()
    byte = torch.cat(values, 1).reshape(len(tile), groups, -1, 16, 4)
    if format == "int4":
        byte = torch.stack((byte & 15, byte >> 4), 3).flatten(2, 3)
    offset = 128 if format == "int8" else 8
    q = (byte.to(torch.int16) - offset).to(torch.int8)
    q_OI = q.permute(0, 3, 1, 2, 4).reshape(len(tile) * 16, -1)
    return q_OI[:rows, :cols].contiguous(), scale_OG
