"""`RopeConfig` → the angles of any position: inverse frequencies and a scale, by rope type.

Invariant: the angles depend on the configuration and the position only, never on what else is in a
batch or how long a sequence has grown, because cached keys were rotated once and stay as they are.
transformers instead looks at the longest position of each call (dynamic, longrope) and so disagrees
with its own cache at the switch; here `context_tokens`, what the decoder is built to serve, is what
decides. For any sequence on the same side of the switch the two agree.

Sources: Su et al. 2021 (default); kaiokendev 2023 (linear); bloc97 and emozilla 2023 (dynamic NTK);
Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE); Llama 3.1's reference code (llama3). Computed
in the order that transformers computes them, so that float32 rounding is the same.
"""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from headrace.model.config import ModelConfig
from headrace.model.rope_config import RopeConfig

Number = TypeVar("Number", int, float)


class Angles(NamedTuple):
    """Cosine and sine for each row, float32, `[T, H/2]`."""

    cos_TP: Tensor
    sin_TP: Tensor


class Rope:
    """Positions to angles. Not a module: it stays float32 whatever the model is cast to."""

    def __init__(self, config: ModelConfig, *, context_tokens: int) -> None:
        self._by_device: dict[torch.device, Tensor] = {}
        self.frequencies_P, self.scale = frequencies(config, context_tokens)

    def angles(self, pos_T: Tensor) -> Angles:
        frequencies_P = self._by_device.get(pos_T.device)
        if frequencies_P is None:
            frequencies_P = self.frequencies_P.to(pos_T.device)
            self._by_device[pos_T.device] = frequencies_P
        angle_TP = pos_T.float().unsqueeze(-1) * frequencies_P
        return Angles(angle_TP.cos() * self.scale, angle_TP.sin() * self.scale)


def frequencies(config: ModelConfig, context_tokens: int) -> tuple[Tensor, float]:
    """Radians per position for each pair of a head, and the factor on cosine and sine."""
    rope, dim = config.rope, config.head_dim
    # Explicitly on the CPU: the decoder may be under construction on the meta device.
    exponent_P = torch.arange(0, dim, 2, dtype=torch.int64, device="cpu").float() / dim
    if rope.kind == "dynamic":
        factor, trained = _given(rope.factor), config.max_position_embeddings
        grown = factor * max(context_tokens, trained) / trained - (factor - 1)
        base = rope.theta * grown ** (dim / (dim - 2))
        return 1.0 / (base**exponent_P), 1.0
    if rope.kind == "longrope":
        return _longrope(rope, exponent_P, context_tokens, config.max_position_embeddings)
    if rope.kind == "yarn":
        return _yarn(rope, exponent_P, dim)
    plain_P = 1.0 / (rope.theta**exponent_P)
    if rope.kind == "proportional":
        turning = int(rope.partial_rotary_factor * dim // 2)
        return torch.cat((plain_P[:turning], 0 * plain_P[turning:])) / (rope.factor or 1.0), 1.0
    if rope.kind == "linear":
        return plain_P / _given(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain_P), 1.0
    return plain_P, 1.0


def _llama3(rope: RopeConfig, plain_P: Tensor) -> Tensor:
    factor, original = _given(rope.factor), _given(rope.original_tokens)
    low, high = _given(rope.low_freq_factor), _given(rope.high_freq_factor)
    wavelength_P = 2 * math.pi / plain_P
    slowed_P = torch.where(wavelength_P > original / low, plain_P / factor, plain_P)
    blend_P = (original / wavelength_P - low) / (high - low)
    blended_P = (1 - blend_P) * slowed_P / factor + blend_P * slowed_P
    between = (wavelength_P >= original / high) & (wavelength_P <= original / low)
    return torch.where(between, blended_P, slowed_P)


def _yarn(rope: RopeConfig, exponent_P: Tensor, dim: int) -> tuple[Tensor, float]:
    factor, original = _given(rope.factor), _given(rope.original_tokens)

    def pair_turning(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_turning(rope.beta_fast or 32), pair_turning(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0  # no division by zero
    ramp_P = (
        (torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
    ).clamp(0, 1)
    keep_P = 1 - ramp_P
    base_P = rope.theta**exponent_P
    slowed_P, plain_P = 1.0 / (factor * base_P), 1.0 / base_P
    return slowed_P * (1 - keep_P) + plain_P * keep_P, _yarn_scale(rope, factor)


def _yarn_scale(rope: RopeConfig, factor: float) -> float:
    def magnitude(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)


def _longrope(
    rope: RopeConfig, exponent_P: Tensor, context_tokens: int, max_tokens: int
) -> tuple[Tensor, float]:
    original = _given(rope.original_tokens)
    stretch = rope.long_factor if context_tokens > original else rope.short_factor
    stretch_P = torch.tensor(stretch, dtype=torch.float32, device="cpu")
    factor = rope.factor if rope.factor is not None else max_tokens / original
    scale = rope.attention_factor
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return 1.0 / (stretch_P * rope.theta**exponent_P), scale


def _given(value: Number | None) -> Number:
    assert value is not None, "parse_rope requires what its type uses"
    return value
