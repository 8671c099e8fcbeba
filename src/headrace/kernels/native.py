"""The native kernels as Python objects: pools of threads, huge-page buffers, packed matrices.

    pool, scratch = Pool(2), Scratch()
    matrix = Matrix.quantize(pool, weight_OI, format="int8", group=32)
    out_MO = matrix.linear(pool, scratch, x_MI)

Every object keeps what the library reads of it alive. `library()` is None where no library runs;
everything else here needs one. Plain torch versions of the same arithmetic are in `tiles`.
"""

import mmap
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headrace.errors import HeadraceError
from headrace.kernels.library import KvStruct, Library, MatrixStruct, library, why_not

__all__ = [
    "BF16",
    "F32",
    "INT4",
    "INT8",
    "Matrix",
    "PagedKv",
    "Pool",
    "Scratch",
    "library",
    "why_not",
]

BF16, INT8, INT4, F32 = 0, 1, 2, 3
"""HR_BF16, HR_INT8, HR_INT4, HR_F32."""

TILE_ROWS = 16
"""Outputs that are packed together; a matrix is filled by whole ones."""

QuantizedFormat = Literal["int8", "int4"]
_CODES = {"bf16": BF16, "int8": INT8, "int4": INT4, "f32": F32}
_NAMES = {code: name for name, code in _CODES.items()}
_ERRORS = {1: "shapes that do not fit", 2: "an unknown format", 3: "a group other than 32, 64, 128"}
_HUGE_PAGE = 2 << 20


def require() -> Library:
    """The library.

    Raises:
        HeadraceError: There is none; callers ask `library()` first.
    """
    found = library()
    if found is None:
        raise HeadraceError(why_not() or "no native kernels")
    return found


def check(status: int) -> None:
    """Raise what a status of the library means; 0 is success."""
    if status:
        raise ValueError(f"the native kernels were given {_ERRORS.get(status, f'({status})')}")


def buffer(size_bytes: int) -> Tensor:
    """Zeroed bytes in huge pages where the system has them, aligned to a page."""
    space = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size_bytes >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        space.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(space, dtype=torch.uint8, count=size_bytes)


class Pool:
    """Threads that run kernels together, the calling one included. One caller at a time."""

    def __init__(self, threads: int, library: Library | None = None) -> None:
        """Start them; None = the best library."""
        self.threads = threads
        self.library = library or require()
        self.handle = self.library.hr_pool_new(threads)

    def __del__(self) -> None:
        if handle := getattr(self, "handle", None):
            self.library.hr_pool_free(handle)


class Scratch:
    """Work memory of calls: it grows to the largest and is reused. One caller at a time."""

    def __init__(self, library: Library | None = None) -> None:
        """None = the best library; else that of the pool it is used with."""
        self._library = library or require()
        self.handle = self._library.hr_scratch_new()

    def __del__(self) -> None:
        if handle := getattr(self, "handle", None):
            self._library.hr_scratch_free(handle)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """A matrix as whole numbers: value = scale of its row and group * q."""

    q_OI: Tensor
    """int8; -127..127, or -8..7 for int4."""
    scales_OG: Tensor
    """float16."""


class Matrix:
    """Weights [rows = outputs O, cols = inputs I] as the kernels read them.

    Made whole by one of the constructors, or allocated and filled by parts: linears that read the
    same input are one matrix, and joining them beforehand would copy a model.
    """

    def __init__(
        self, *, format: int, rows: int, cols: int, group: int, data: Tensor, bias: Tensor | None
    ) -> None:
        """Wrap packed bytes, which must be aligned to 64; see the constructors below."""
        self.format, self.rows, self.cols, self.group = format, rows, cols, group
        self.data = data
        self.bias = None if bias is None else bias.detach().float().contiguous()
        self.struct = MatrixStruct(
            format=format,
            rows=rows,
            cols=cols,
            group=group,
            data=data.data_ptr(),
            bias=None if self.bias is None else self.bias.data_ptr(),
        )
        self._library = require()

    @classmethod
    def allocate(
        cls, *, format: str, rows: int, cols: int, group: int = 0, bias: Tensor | None = None
    ) -> "Matrix":
        """Zeros, to be filled by `put` or `put_packed`."""
        size = packed_bytes(format, rows=rows, cols=cols, group=group)
        return cls(
            format=_CODES[format], rows=rows, cols=cols, group=group, data=buffer(size), bias=bias
        )

    @classmethod
    def pack(
        cls, pool: Pool, weight_OI: Tensor, *, format: str = "bf16", bias: Tensor | None = None
    ) -> "Matrix":
        """Weights as they are computed with: bf16, to which others are rounded, or f32."""
        rows, cols = weight_OI.shape
        matrix = cls.allocate(format=format, rows=rows, cols=cols, bias=bias)
        matrix.put(pool, 0, weight_OI)
        return matrix

    @classmethod
    def quantize(
        cls,
        pool: Pool,
        weight_OI: Tensor,
        *,
        format: QuantizedFormat,
        group: int,
        bias: Tensor | None = None,
    ) -> "Matrix":
        """Weights rounded to nearest, from bfloat16."""
        rows, cols = weight_OI.shape
        matrix = cls.allocate(format=format, rows=rows, cols=cols, group=group, bias=bias)
        matrix.put(pool, 0, weight_OI)
        return matrix

    def put(self, pool: Pool, row: int, weight_OI: Tensor) -> None:
        """Rows from `row` on, a multiple of `TILE_ROWS`, become these, rounded to the format."""
        at = self._place(row, len(weight_OI))
        if self.format == F32:
            exact = weight_OI.detach().float().contiguous()
            rows, cols = exact.shape
            packing = pool.library.hr_pack_f32
            check(packing(pool.handle, rows, cols, exact.data_ptr(), cols, at.data_ptr()))
            return
        if self.format != BF16:
            format: QuantizedFormat = "int8" if self.format == INT8 else "int4"
            rounded = quantize(pool, weight_OI, format=format, group=self.group)
            self._put_quantized(pool, at, rounded)
            return
        weight = _rows_of_bf16(weight_OI)
        rows, cols = weight.shape
        check(
            pool.library.hr_pack_bf16(
                pool.handle, rows, cols, weight.data_ptr(), weight.stride(0), at.data_ptr()
            )
        )

    def put_packed(self, row: int, packed: Tensor, rows: int) -> None:
        """The same for the bytes of a packed matrix of `rows` rows, as they are."""
        at, flat = self._place(row, rows), packed.view(torch.uint8).flatten()
        if flat.numel() != at.numel():
            raise ValueError(
                f"{flat.numel()} packed bytes for {self.describe()} {rows} x {self.cols}: "
                f"expected {at.numel()}"
            )
        at.copy_(flat)

    def _place(self, row: int, rows: int) -> Tensor:
        if row % TILE_ROWS or row + rows > self.rows:
            raise ValueError(f"{rows} rows at {row} of {self.rows}: not whole tiles of {TILE_ROWS}")
        tile = packed_bytes(_NAMES[self.format], rows=TILE_ROWS, cols=self.cols, group=self.group)
        return self.data[row // TILE_ROWS * tile : -(-(row + rows) // TILE_ROWS) * tile]

    def _put_quantized(self, pool: Pool, at: Tensor, quantized: Quantized) -> None:
        rows, cols = quantized.q_OI.shape
        check(
            pool.library.hr_pack_quantized(
                pool.handle,
                self.format,
                rows,
                cols,
                self.group,
                quantized.q_OI.data_ptr(),
                quantized.scales_OG.data_ptr(),
                at.data_ptr(),
            )
        )

    @classmethod
    def from_quantized(
        cls,
        pool: Pool,
        quantized: Quantized,
        *,
        format: QuantizedFormat,
        group: int,
        bias: Tensor | None = None,
    ) -> "Matrix":
        """Whole numbers and scales, as some calibration chose them."""
        q, scales = quantized.q_OI.contiguous(), quantized.scales_OG.contiguous()
        groups = -(-q.shape[1] // group)
        if scales.shape != (q.shape[0], groups) or scales.dtype != torch.float16:
            raise ValueError(
                f"scales {tuple(scales.shape)} {scales.dtype}: expected "
                f"{(q.shape[0], groups)} float16"
            )
        if q.dtype != torch.int8:
            raise ValueError(f"quantized values are {q.dtype}, expected int8")
        rows, cols = q.shape
        matrix = cls.allocate(format=format, rows=rows, cols=cols, group=group, bias=bias)
        matrix._put_quantized(pool, matrix.data, Quantized(q_OI=q, scales_OG=scales))
        return matrix

    @classmethod
    def from_packed(
        cls,
        packed: Tensor,
        *,
        format: str,
        rows: int,
        cols: int,
        group: int,
        bias: Tensor | None = None,
    ) -> "Matrix":
        """Bytes that `packed` gave, copied into huge pages."""
        matrix = cls.allocate(format=format, rows=rows, cols=cols, group=group, bias=bias)
        matrix.put_packed(0, packed, rows)
        return matrix

    def describe(self) -> str:
        """`bf16`, `int8 g32`, ..."""
        name = _NAMES[self.format]
        return f"{name} g{self.group}" if self.group else name

    def unpack(self) -> Tensor:
        """[rows, cols] float32: what the kernels compute with."""
        out_OI = torch.empty(self.rows, self.cols)
        check(self._library.hr_unpack(self.struct, out_OI.data_ptr()))
        return out_OI

    def gather(self, rows_N: Tensor) -> Tensor:
        """Rows by number, as an embedding looks them up: [N, cols] float32."""
        wanted = rows_N.to(torch.int32).contiguous()
        out_NI = torch.empty(wanted.numel(), self.cols)
        check(
            self._library.hr_gather(
                self.struct, wanted.numel(), wanted.data_ptr(), out_NI.data_ptr()
            )
        )
        return out_NI

    def linear(
        self, pool: Pool, scratch: Scratch, x_MI: Tensor, *, add_to: Tensor | None = None
    ) -> Tensor:
        """`x @ matrix^T + bias`, float32; `add_to` is added to in place, and returned."""
        x = x_MI if x_MI.dtype == torch.float32 and x_MI.stride(1) == 1 else x_MI.float()
        x = x if x.stride(1) == 1 else x.contiguous()
        if x.shape[1] != self.cols:
            raise ValueError(f"x has {x.shape[1]} columns, the matrix {self.cols}")
        out = torch.empty(len(x), self.rows) if add_to is None else add_to
        if out.shape != (len(x), self.rows) or out.stride(1) != 1 or out.dtype != torch.float32:
            raise ValueError(f"cannot add {len(x)} x {self.rows} to {tuple(out.shape)} {out.dtype}")
        check(
            pool.library.hr_linear(
                pool.handle,
                scratch.handle,
                self.struct,
                len(x),
                x.data_ptr(),
                x.stride(0) if len(x) > 1 else self.cols,
                out.data_ptr(),
                out.stride(0) if len(out) > 1 else self.rows,
                int(add_to is not None),
            )
        )
        return out


def packed_bytes(format: str, *, rows: int, cols: int, group: int) -> int:
    """Bytes of a packed matrix; `group` 0 for bf16."""
    size = require().hr_packed_bytes(_CODES[format], rows, cols, group)
    if size < 0:
        raise ValueError(f"no packed form for {format} {rows} x {cols} in groups of {group}")
    return size


def quantize(pool: Pool, weight_OI: Tensor, *, format: QuantizedFormat, group: int) -> Quantized:
    """Round weights to the nearest of the format, from bfloat16."""
    weight = _rows_of_bf16(weight_OI)
    rows, cols = weight.shape
    q_OI = torch.empty(rows, cols, dtype=torch.int8)
    scales_OG = torch.empty(rows, -(-cols // group), dtype=torch.float16)
    check(
        pool.library.hr_quantize(
            pool.handle,
            _CODES[format],
            rows,
            cols,
            group,
            weight.data_ptr(),
            weight.stride(0),
            q_OI.data_ptr(),
            scales_OG.data_ptr(),
        )
    )
    return Quantized(q_OI=q_OI, scales_OG=scales_OG)


def _rows_of_bf16(weight_OI: Tensor) -> Tensor:
    weight = weight_OI.detach().to(torch.bfloat16)
    return weight if weight.stride(1) == 1 else weight.contiguous()


def kv_bytes(format: int, *, blocks: int, block_tokens: int, kv_heads: int, head_dim: int) -> int:
    """Bytes of the keys of one layer's pool, which are those of its values."""
    size = require().hr_kv_bytes(format, blocks, block_tokens, kv_heads, head_dim)
    if size < 0:
        raise ValueError(f"no KV pool for blocks of {block_tokens} tokens and head_dim {head_dim}")
    return size


@dataclass(frozen=True, kw_only=True, slots=True)
class PagedKv:
    """One layer's pool of keys and values."""

    k: Tensor
    v: Tensor
    struct: KvStruct

    @classmethod
    def allocate(
        cls, format: int, *, blocks: int, block_tokens: int, kv_heads: int, head_dim: int
    ) -> "PagedKv":
        """A pool of zeros."""
        size = kv_bytes(
            format, blocks=blocks, block_tokens=block_tokens, kv_heads=kv_heads, head_dim=head_dim
        )
        k, v = buffer(size), buffer(size)
        struct = KvStruct(
            format=format,
            blocks=blocks,
            block_tokens=block_tokens,
            kv_heads=kv_heads,
            head_dim=head_dim,
            k=k.data_ptr(),
            v=v.data_ptr(),
        )
        return cls(k=k, v=v, struct=struct)
