"""Weights as the GPU's linear kernels read them: rows of outputs, dense, int8, int4 or fp8.

    int8  value = q * scale of its group of columns; q as it is
    int4  the same; of a group of G columns byte j holds column j in its low half and column j + G/2
          in its high half, each plus 8, so that unpacking needs no shuffle between threads
    fp8   value = e4m3 * scale of its row

Scales of groups lie `[groups, rows]`: a product takes them a group at a time. Columns are padded to
whole groups with zeros.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DENSE, INT8, INT4, FP8 = "dense", "int8", "int4", "fp8"
GROUPS = (32, 64, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """`[rows, cols]` = outputs by inputs, ready to multiply."""

    format: str
    """dense | int8 | int4 | fp8"""
    rows: int
    cols: int
    data: Tensor
    scale: Tensor | None = None
    """float16 `[groups, rows]`; fp8: float32 `[rows]`; dense: None."""
    group: int = 0
    """Columns that share a scale; 0 = all."""
    bias: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """What a product reads of it."""
        parts = (self.data, self.scale, self.bias)
        return sum(part.nbytes for part in parts if part is not None)

    def describe(self) -> str:
        """`bfloat16`, `int8 g32`, `fp8`."""
        if self.format == DENSE:
            return str(self.data.dtype).removeprefix("torch.")
        return f"{self.format} g{self.group}" if self.group else self.format

    @classmethod
    def dense(cls, weight_NK: Tensor, *, bias: Tensor | None = None) -> "Matrix":
        rows, cols = weight_NK.shape
        return cls(format=DENSE, rows=rows, cols=cols, data=weight_NK.contiguous(), bias=bias)

    @classmethod
    def fp8(cls, weight_NK: Tensor, scale_N: Tensor, *, bias: Tensor | None = None) -> "Matrix":
        """From e4m3 values and a scale a row."""
        rows, cols = weight_NK.shape
        return cls(
            format=FP8,
            rows=rows,
            cols=cols,
            data=weight_NK.contiguous(),
            scale=scale_N.float().contiguous(),
            bias=bias,
        )

    @classmethod
    def quantized(
        cls, q_NK: Tensor, scale_NG: Tensor, *, format: str, group: int, bias: Tensor | None = None
    ) -> "Matrix":
        """From integers (int8: -127..127, int4: -8..7), int8, and a scale a row and group."""
        rows, cols = q_NK.shape
        if group not in GROUPS:
            raise ValueError(f"group {group}: the kernels take {GROUPS}")
        groups = -(-cols // group)
        if scale_NG.shape != (rows, groups):
            raise ValueError(
                f"scales {tuple(scale_NG.shape)} of a {rows} x {cols} matrix in groups of {group}: "
                f"needs {(rows, groups)}"
            )
        q_NK = functional.pad(q_NK, (0, groups * group - cols))
        if format == INT4:
            low, high = (q_NK + 8).to(torch.uint8).view(rows, groups, 2, group // 2).unbind(2)
            q_NK = (low | high << 4).flatten(1)
        return cls(
            format=format,
            rows=rows,
            cols=cols,
            data=q_NK.contiguous(),
            scale=scale_NG.t().to(torch.float16).contiguous(),
            group=group,
            bias=bias,
        )

    def unpacked(self) -> Tensor:
        """What the kernels compute with, float32 `[rows, cols]`: the reference."""
        return self._values(self.data, self.scale)

    def look_up(self, ids_T: Tensor) -> Tensor:
        """Some rows, float32 `[T, cols]`: the table of a tied embedding."""
        scale = None if self.scale is None else self.scale.index_select(-1, ids_T)
        return self._values(self.data.index_select(0, ids_T), scale)

    def _values(self, data: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            return data.float()
        if self.format == FP8:
            return data.float() * scale[:, None]
        grouped = data.view(len(data), scale.shape[0], -1)
        if self.format == INT4:
            grouped = torch.cat((grouped & 15, grouped >> 4), 2).to(torch.int8) - 8
        return (grouped.float() * scale.float().t()[:, :, None]).flatten(1)[:, : self.cols]


def join(parts: list[Matrix]) -> Matrix:
    """The rows of several matrices of the same inputs, format and group as one."""
    first = parts[0]
    kinds = {(part.format, part.cols, part.group) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"matrices of several kinds cannot be one: {sorted(kinds)}")
    scales = [part.scale for part in parts if part.scale is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    if biases and len(biases) < len(parts):
        raise ValueError("some of the matrices to be joined have a bias, and some do not")
    return Matrix(
        format=first.format,
        rows=sum(part.rows for part in parts),
        cols=first.cols,
        data=torch.cat([part.data for part in parts]),
        scale=torch.cat(scales, dim=-1) if scales else None,
        group=first.group,
        bias=torch.cat(biases) if biases else None,
    )
