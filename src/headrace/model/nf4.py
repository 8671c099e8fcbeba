"""Weights in 4-bit NormalFloat: bitsandbytes' `nf4`, bit for bit, and a linear that trains over it.

    stored = quantize(weight_OI, block=64, double=True)
    dequantize(stored, torch.bfloat16)                 # what bitsandbytes' dequantize_4bit returns

A matrix is read row by row as one line of numbers. Each `block` of them is divided by its largest
magnitude and rounded to the nearest of 16 levels; two levels share a byte, the first in its high
half. `double` stores those largest magnitudes themselves in 8 bits: less their mean (`offset`), in
blocks of 256, each divided by its own largest magnitude and rounded to bitsandbytes' 256 dynamic
levels. 4.5 bits a weight become 4.127.

`Nf4Linear` keeps nothing else: forward and backward each make the full-precision matrix anew and
drop it. It has no gradient of its own; what is trained lies beside it (`lora`).

Legend: O outputs, I inputs, N numbers of a matrix, B blocks.

Source: Dettmers et al. 2023 (QLoRA), sections 3 and A; the levels are those of bitsandbytes.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.errors import CheckpointError, UserError

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Numbers that may share a scale."""
SCALE_BLOCK = 256
"""Scales that share a scale of their own."""
_CHUNK = 1 << 20  # numbers unpacked at once: what is held beside the result stays some megabytes
_SMALLEST = 1e-38  # a block of zeros is divided by this, as bitsandbytes does

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nf4:
    """A matrix as it is stored."""

    packed: Tensor
    """uint8 `[ceil(N / 2)]`."""
    scale_B: Tensor
    """Largest magnitude of each block: float32, or uint8 codes where it is quantized again."""
    scale_scale: Tensor | None
    """float32 `[ceil(B / 256)]`; None = `scale_B` is plain."""
    offset: Tensor | None
    """float32 scalar: the mean of the scales."""
    block: int
    rows: int
    cols: int

    @property
    def nbytes(self) -> int:
        tensors = (self.packed, self.scale_B, self.scale_scale, self.offset)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def stored_bytes(rows: int, cols: int, *, block: int, double: bool) -> int:
    """What `quantize` of a matrix of this shape occupies."""
    numbers = rows * cols
    blocks = -(-numbers // block)
    scales = blocks + 4 * -(-blocks // SCALE_BLOCK) + 4 if double else 4 * blocks
    return -(-numbers // 2) + scales


@torch.no_grad()
def quantize(weight_OI: Tensor, *, block: int = 64, double: bool = True) -> Nf4:
    """Round a matrix.

    Raises:
        UserError: A block size that there is not.
        CheckpointError: A number that is not finite.
    """
    if block not in BLOCKS:
        raise UserError(f"NF4 block {block} is not one of {', '.join(map(str, BLOCKS))}")
    rows, cols = weight_OI.shape
    if weight_OI.is_meta:
        return _shapes(rows, cols, block=block, double=double)
    flat_N = weight_OI.reshape(-1)
    middles = _middles(flat_N.device)
    packed, scales = [], []
    for chunk in flat_N.split(_CHUNK):  # a multiple of every block, so that blocks stay whole
        numbers = chunk.numel()
        padded = functional.pad(chunk.float(), (0, -numbers % block)).view(-1, block)
        scale_B = padded.abs().amax(1)
        if not bool(torch.isfinite(scale_B).all()):
            raise CheckpointError("a weight that is not finite cannot be quantized")
        unit = (padded * (1.0 / scale_B.clamp(min=_SMALLEST))[:, None]).clamp_(-1, 1)
        if numbers % block:  # bitsandbytes divides in its last, unfinished block
            scale_B[-1].clamp_(min=_SMALLEST)
            unit[-1] = (padded[-1] / scale_B[-1]).clamp(-1, 1)
        level = torch.bucketize(unit.view(-1)[:numbers], middles, out_int32=True).to(torch.uint8)
        if numbers % 2:
            level = functional.pad(level, (0, 1), value=7)  # the level of zero
        packed.append(level[::2] << 4 | level[1::2])
        scales.append(scale_B)
    scale_B = torch.cat(scales)
    scale_scale: Tensor | None = None
    offset: Tensor | None = None
    if double:
        offset = scale_B.mean()
        scale_B, scale_scale = _round_scales(scale_B - offset)
    return Nf4(
        packed=torch.cat(packed),
        scale_B=scale_B,
        scale_scale=scale_scale,
        offset=offset,
        block=block,
        rows=rows,
        cols=cols,
    )


@torch.no_grad()
def dequantize(stored: Nf4, dtype: torch.dtype) -> Tensor:
    """The matrix `[O, I]` that is computed with: level times scale in float32, then rounded."""
    numbers = stored.rows * stored.cols
    device = stored.packed.device
    out_N = torch.empty(numbers, dtype=dtype, device=device)
    if out_N.is_meta:
        return out_N.view(stored.rows, stored.cols)
    scale_B = scales(stored)
    pairs = _pairs(device)
    step_B = _CHUNK // stored.block
    for index, packed in enumerate(stored.packed.split(_CHUNK // 2)):
        values = functional.embedding(packed.int(), pairs).view(-1)
        here = min(_CHUNK, numbers - index * _CHUNK)
        values = functional.pad(values[:here], (0, -here % stored.block)).view(-1, stored.block)
        values = values.mul_(scale_B[index * step_B : (index + 1) * step_B, None]).view(-1)
        out_N[index * _CHUNK : index * _CHUNK + here] = values[:here]
    return out_N.view(stored.rows, stored.cols)


def scales(stored: Nf4) -> Tensor:
    """float32 scale of each block."""
    if stored.scale_scale is None or stored.offset is None:
        return stored.scale_B
    blocks = stored.scale_B.numel()
    value_B = dynamic_levels().to(stored.scale_B.device)[stored.scale_B.int()]
    padded = functional.pad(value_B, (0, -blocks % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    return (padded * stored.scale_scale[:, None]).view(-1)[:blocks] + stored.offset


@cache
def dynamic_levels() -> Tensor:
    """The 256 levels of an 8-bit dynamic tree, ascending.

    Source: Dettmers 2015 (arXiv 1511.04561); bitsandbytes `create_dynamic_map`.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        bounds = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = (bounds[:-1] + bounds[1:]) / 2.0
        magnitudes: list[float] = (10 ** (exponent - 6) * means).tolist()
        values += magnitudes + [-value for value in magnitudes]
    return torch.tensor(sorted(values), dtype=torch.float32)


class Nf4Linear(nn.Module):
    """`x @ W^T + bias` over a stored matrix that is not trained.

    Args:
        stored: The matrix.
        dtype: In which `weight` is given; a product is computed in its input's.
        bias: `[O]` or None.
    """

    packed: Tensor
    scale_B: Tensor
    scale_scale: Tensor | None
    offset: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self, stored: Nf4, *, dtype: torch.dtype, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("packed", stored.packed)
        self.register_buffer("scale_B", stored.scale_B)
        self.register_buffer("scale_scale", stored.scale_scale)
        self.register_buffer("offset", stored.offset)
        self.register_parameter("bias", bias)
        self.block, self.rows, self.cols, self.dtype = (
            stored.block,
            stored.rows,
            stored.cols,
            dtype,
        )

    @property
    def stored(self) -> Nf4:
        """The matrix as it is stored."""
        return Nf4(
            packed=self.packed,
            scale_B=self.scale_B,
            scale_scale=self.scale_scale,
            offset=self.offset,
            block=self.block,
            rows=self.rows,
            cols=self.cols,
        )

    @property
    def weight(self) -> Tensor:
        """`[O, I]`, made anew at each call."""
        return dequantize(self.stored, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.bias, self.stored)


class _Product(torch.autograd.Function):
    """`x @ W^T + bias` that keeps W as it is stored between forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, stored: Nf4) -> Tensor:
        ctx.stored, ctx.has_bias = stored, bias is not None
        return functional.linear(x, dequantize(stored, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        wants_x, wants_bias, _ = ctx.needs_input_grad
        grad_x = grad @ dequantize(ctx.stored, grad.dtype) if wants_x else None
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.has_bias and wants_bias else None
        return grad_x, grad_bias, None


def _shapes(rows: int, cols: int, *, block: int, double: bool) -> Nf4:
    """What `quantize` would give, without values."""
    blocks = -(-rows * cols // block)
    outer = -(-blocks // SCALE_BLOCK)
    scale_dtype = torch.uint8 if double else torch.float32
    return Nf4(
        packed=torch.empty(-(-rows * cols // 2), dtype=torch.uint8, device="meta"),
        scale_B=torch.empty(blocks, dtype=scale_dtype, device="meta"),
        scale_scale=torch.empty(outer, device="meta") if double else None,
        offset=torch.empty((), device="meta") if double else None,
        block=block,
        rows=rows,
        cols=cols,
    )


def _round_scales(centred_B: Tensor) -> tuple[Tensor, Tensor]:
    """Scales less their mean -> codes, and the largest magnitude of each 256 of them.

    bitsandbytes' CPU library looks the nearest level up on a grid of 65,536 points; its GPU
    kernels compare with the levels themselves and choose a neighbour in one case of a thousand.
    What a code means is the same on both; this is the grid.
    """
    blocks = centred_B.numel()
    padded = functional.pad(centred_B, (0, -blocks % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    largest = padded.abs().amax(1)
    divisor = torch.where(largest == 0, 1.0, largest)
    point = ((padded * (1.0 / divisor)[:, None]).clamp(-1, 1) + 1) * 32767.5 + 0.5
    codes = _grid().to(centred_B.device)[point.int()]
    codes[largest == 0] = 0
    return codes.view(-1)[:blocks].contiguous(), largest


@cache
def _grid() -> Tensor:
    levels = dynamic_levels()
    points = torch.arange(65_536, dtype=torch.float32) / 32767.5 - 1
    return torch.bucketize(points, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)


@cache
def _middles(device: torch.device) -> Tensor:
    levels = torch.tensor(LEVELS, dtype=torch.float32, device=device)
    return (levels[1:] + levels[:-1]) / 2


@cache
def _pairs(device: torch.device) -> Tensor:
    """float32 `[256, 2]`: what the two halves of a byte stand for."""
    levels = torch.tensor(LEVELS, dtype=torch.float32, device=device)
    return torch.stack((levels.repeat_interleave(16), levels.repeat(16)), dim=1)


assert all(_CHUNK % (2 * block) == 0 for block in BLOCKS)
