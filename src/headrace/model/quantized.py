"""Quantized matrices as modules, and the replacing of a decoder's linears by them.

    quantize_decoder(decoder, format="int8", group=32)     # round to nearest, in place

`QuantizedLinear` holds what the native kernels read, tiles of 16 rows, and computes what they
compute, in torch: activations are rounded to int8 per row and group before the product. It is the
reference and the fallback; on its first call it unpacks its weights into the dtype of its input, so
it then needs a full-precision matrix's memory too. `model/native.py` never calls it: it takes
`packed` as it is. `Fp8Linear` holds e4m3 weights with a scale a row.

Where head and embedding are tied, the head holds the one table and `QuantizedEmbedding` looks rows
up in it. Matrices go by their names in a checkpoint file, without `.weight`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.errors import CheckpointError, UserError
from headrace.kernels import tiles
from headrace.model.decoder import Decoder, Embedding, Linear
from headrace.model.matrices import matrices
from headrace.model.quantization import (
    FORMATS,
    FP8,
    FULL,
    GROUPS,
    HEAD,
    Keep,
    Quantization,
    choose_kept,
)

SCALE = ".weight_scale"
"""How the name of an fp8 matrix's scales ends."""
_FP8_MAX = 448.0
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class QuantizedLinear(nn.Module):
    """`x @ W^T + bias` with W in int8 or int4 and x rounded to int8 by groups.

    Args:
        packed: W's tiles, uint8, as `kernels.tiles.pack` makes them.
        format: int8 | int4.
        rows: Outputs.
        cols: Inputs.
        group: Inputs that share a scale.
        bias: `[rows]` or None.
    """

    packed: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        packed: Tensor,
        *,
        format: str,
        rows: int,
        cols: int,
        group: int,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_parameter("bias", bias)
        self.format, self.rows, self.cols, self.group = format, rows, cols, group
        self._dense: Tensor | None = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W `[rows, cols]` as the kernels compute with it, unpacked once."""
        if self._dense is None or self._dense.dtype != dtype:
            q_OI, scale_OG = tiles.unpack(
                self.packed, self.format, self.rows, self.cols, self.group
            )
            self._dense = tiles.dequantize(q_OI, scale_OG, self.group).to(dtype)
        return self._dense

    def forward(self, x: Tensor) -> Tensor:
        rounded = tiles.round_activations(x, self.group).to(x.dtype)
        return functional.linear(rounded, self.dense(x.dtype), self.bias)


class Fp8Linear(nn.Module):
    """`x @ W^T + bias` with W in float8 e4m3 times a scale a row; x stays as it is.

    Scales are powers of two, so that bfloat16 holds every weight exactly.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: nn.Parameter | None

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, *, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_parameter("bias", bias)
        self._dense: Tensor | None = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W `[rows, cols]`, made once."""
        if self._dense is None or self._dense.dtype != dtype:
            self._dense = (self.weight.float() * self.weight_scale[:, None]).to(dtype)
        return self._dense

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dense(x.dtype), self.bias)

    def as_linear(self, dtype: torch.dtype) -> nn.Linear:
        """The same as a plain linear: what runs where there is no arithmetic in fp8."""
        return _linear(self.dense(dtype), self.bias)


class QuantizedEmbedding(nn.Module):
    """Rows of the table that a tied head holds; it has no tensor of its own."""

    def __init__(self, table: QuantizedLinear | Fp8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, so that it is not registered here a second time
        self.dtype = dtype

    @property
    def table(self) -> QuantizedLinear | Fp8Linear:
        return self._table[0]

    def forward(self, ids_T: Tensor) -> Tensor:
        return functional.embedding(ids_T, self.table.dense(self.dtype))


def quantize_decoder(
    decoder: Decoder, *, format: str, group: int = 32, keep: Iterable[Keep] = ()
) -> Quantization:
    """Round a full-precision decoder's matrices to nearest, in place.

    Args:
        decoder: Changed: its linears, and a tied embedding, become quantized modules.
        format: int8 | int4 | fp8.
        group: Inputs that share a scale: 32, 64 or 128; fp8 has a scale a row whatever this is.
        keep: Matrices that stay in another format.

    Raises:
        UserError: A format or group that there is not, or a `keep` that fits nothing or splits
            what the kernels read as one.
    """
    chosen = plan(decoder, format=format, group=group, keep=keep)
    for name in matrices(decoder.config):
        if chosen.of(name) != FULL:
            put(decoder, name, rounded(linear_of(decoder, name), chosen.of(name), group))
    return chosen


def plan(decoder: Decoder, *, format: str, group: int, keep: Iterable[Keep]) -> Quantization:
    """Which matrix will be stored how.

    Raises:
        UserError: As `quantize_decoder`.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if format != FP8 and group not in GROUPS:
        raise UserError(f"group {group} is not one of {', '.join(map(str, GROUPS))}")
    kept = choose_kept(matrices(decoder.config), keep, format)
    if format == FP8:
        for name, own in kept.items():
            if own != FULL:
                raise UserError(f"--keep {name}={own}: beside fp8 a matrix can be kept in {FULL}")
        return Quantization(format=format, kept=kept)
    chosen = Quantization(format=format, group=group, kept=kept)
    for name in kept:
        for other in _read_with(name):
            if chosen.of(other) != chosen.of(name):
                raise UserError(
                    f"{name} would be {chosen.of(name)} and {other} {chosen.of(other)}, but the "
                    "kernels read them as one matrix; --keep both or neither"
                )
    return chosen


def _read_with(name: str) -> list[str]:
    """The matrices that kernels read together with this one."""
    parent, _, own = name.rpartition(".")
    together = next((fused for fused in _FUSED if own in fused), ())
    return [f"{parent}.{other}" for other in together]


def rounded(linear: nn.Linear, format: str, group: int) -> QuantizedLinear | Fp8Linear:
    """A linear rounded to nearest."""
    weight_OI = linear.weight.detach()
    if format == FP8:
        top_O = weight_OI.float().abs().amax(1)
        # The largest lands in the format's last binades, where relative steps are all alike.
        scale_O = torch.where(top_O == 0, 1.0, torch.exp2((top_O / _FP8_MAX).log2().ceil()))
        stored_OI = (weight_OI.float() / scale_O[:, None]).to(torch.float8_e4m3fn)
        return Fp8Linear(stored_OI, scale_O, bias=linear.bias)
    q_OI, scale_OG = tiles.quantize(weight_OI, format, group)
    return from_integers(linear, q_OI, scale_OG, format=format, group=group)


def from_integers(
    linear: nn.Linear, q_OI: Tensor, scale_OG: Tensor, *, format: str, group: int
) -> QuantizedLinear:
    """A linear with these integers and scales for weights, however they were chosen."""
    rows, cols = q_OI.shape
    packed = tiles.pack(q_OI, scale_OG, format, group)
    return QuantizedLinear(
        packed, format=format, rows=rows, cols=cols, group=group, bias=linear.bias
    )


def empty(linear: nn.Linear, format: str, group: int) -> QuantizedLinear | Fp8Linear:
    """The module that a linear's stored tensors will be assigned to."""
    rows, cols = linear.out_features, linear.in_features
    if format == FP8:
        weight = torch.empty((rows, cols), dtype=torch.float8_e4m3fn, device="meta")
        scale = torch.empty(rows, dtype=torch.float32, device="meta")
        return Fp8Linear(weight, scale, bias=linear.bias)
    size = tiles.packed_bytes(format, rows, cols, group)
    packed = torch.empty(size, dtype=torch.uint8, device="meta")
    return QuantizedLinear(
        packed, format=format, rows=rows, cols=cols, group=group, bias=linear.bias
    )


def check_described(decoder: Decoder, quantization: Quantization | None) -> None:
    """Refuse a description that is not how a decoder's matrices are held.

    Raises:
        CheckpointError: It is not, by the first matrix.
    """
    for name in matrices(decoder.config):
        module = _module(decoder, name)
        held = FULL
        if isinstance(module, QuantizedLinear):
            held = module.format
        elif isinstance(module, Fp8Linear):
            held = FP8
        said = FULL if quantization is None else quantization.of(name)
        if held != said:
            raise CheckpointError(f"{name} is held as {held} but described as {said}")


def prepare(decoder: Decoder, quantization: Quantization, dtype: torch.dtype) -> None:
    """Give a decoder without values the modules that a quantized checkpoint fills.

    Raises:
        CheckpointError: A matrix that the decoder has not.
    """
    names = matrices(decoder.config)
    for name in quantization.kept:
        if name not in names:
            raise CheckpointError(
                f"config.json: quantization_config kept names {name!r}, which the model has not"
            )
    for name in names:
        if quantization.of(name) != FULL:
            module = empty(linear_of(decoder, name), quantization.of(name), quantization.group)
            put(decoder, name, module, dtype)


def densify_fp8(decoder: Decoder, dtype: torch.dtype) -> None:
    """Put plain linears in the place of fp8 ones: for devices that do not compute in it."""
    for name in matrices(decoder.config):
        module = _module(decoder, name)
        if not isinstance(module, Fp8Linear):
            continue
        linear = module.as_linear(dtype)
        if name == HEAD and decoder.config.tie_word_embeddings:
            decoder.lm_head = None
            rows, cols = linear.weight.shape
            decoder.embed_tokens = Embedding(rows, cols, device="meta")
            decoder.embed_tokens.weight = linear.weight
        else:
            _set(decoder, name, linear)


def linear_of(decoder: Decoder, name: str) -> nn.Linear:
    """A matrix that is not quantized yet; for a tied head the embedding's, as a linear."""
    module = _module(decoder, name)
    if module is None:
        return _linear(decoder.embed_tokens.weight, None)
    assert isinstance(module, nn.Linear), name
    return module


def put(
    decoder: Decoder,
    name: str,
    module: QuantizedLinear | Fp8Linear,
    dtype: torch.dtype | None = None,
) -> None:
    """Put a quantized module in a matrix's place; a tied embedding then looks rows up in it."""
    if name == HEAD and decoder.lm_head is None:
        table = QuantizedEmbedding(module, dtype or decoder.norm.weight.dtype)
        decoder.register_module("embed_tokens", table)
    _set(decoder, name, module)


def _module(decoder: Decoder, name: str) -> nn.Module | None:
    return decoder.lm_head if name == HEAD else decoder.get_submodule(_own(name))


def _set(decoder: Decoder, name: str, module: nn.Module) -> None:
    parent, _, attribute = _own(name).rpartition(".")
    setattr(decoder.get_submodule(parent), attribute, module)


def _own(name: str) -> str:
    """A name in the file -> in the decoder."""
    return name.removeprefix("model.")


def _linear(weight_OI: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    rows, cols = weight_OI.shape
    made = Linear(cols, rows, bias=False, device="meta")
    made.weight = weight_OI if isinstance(weight_OI, nn.Parameter) else nn.Parameter(weight_OI)
    made.register_parameter("bias", bias)
    return made
