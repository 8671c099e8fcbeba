"""The rotary part of a `config.json` → `RopeConfig`, in every spelling that is in use.

Older files have `rope_theta` beside `rope_scaling: {"type" | "rope_type": ...}`; transformers 5
writes `rope_parameters` with everything in it. Invariant: what is parsed is what is computed; a key
or type that is not understood is refused by its name. Loads no torch.

Source of the types and their keys: transformers 5, `modeling_rope_utils.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel

_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # type: (required, optional)
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "dynamic": (frozenset({"factor"}), frozenset()),
    "llama3": (frozenset({"factor", "low_freq_factor", "high_freq_factor"}), frozenset()),
    "yarn": (
        frozenset({"factor"}),
        frozenset(
            {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
        ),
    ),
    "longrope": (
        frozenset({"short_factor", "long_factor"}),
        frozenset({"factor", "attention_factor"}),
    ),
    "proportional": (frozenset(), frozenset({"factor", "partial_rotary_factor"})),
}
_SCALED_FROM_ORIGINAL = frozenset({"llama3", "yarn", "longrope"})
_BOOKKEEPING = frozenset({"type", "rope_type", "rope_theta", "original_max_position_embeddings"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """How positions become angles. Fields that the type does not use are None."""

    theta: float = 10_000.0
    kind: str = "default"
    """default | linear | dynamic | llama3 | yarn | longrope | proportional"""
    factor: float | None = None
    original_tokens: int | None = None
    """The context of pretraining, that llama3, yarn and longrope scale from."""
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    partial_rotary_factor: float = 1.0
    """Share of the pairs that turn at all; only proportional has it."""
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def to_hf(self) -> dict[str, Any]:
        """The `rope_parameters` of transformers 5."""
        names = {
            "factor": self.factor,
            "original_max_position_embeddings": self.original_tokens,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "attention_factor": self.attention_factor,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "mscale": self.mscale,
            "mscale_all_dim": self.mscale_all_dim,
            "truncate": None if self.truncate else False,
            "partial_rotary_factor": (
                None if self.partial_rotary_factor == 1 else self.partial_rotary_factor
            ),
            "short_factor": list(self.short_factor) or None,
            "long_factor": list(self.long_factor) or None,
        }
        written = {name: value for name, value in names.items() if value is not None}
        return {"rope_type": self.kind, "rope_theta": self.theta, **written}


def parse_rope(hf: Mapping[str, Any], *, head_dim: int, max_tokens: int) -> RopeConfig:
    """Read the rotary settings of a `config.json`.

    Args:
        hf: The whole file.
        head_dim: Length of a head; longrope's factor lists must be half of it.
        max_tokens: `max_position_embeddings`, where the original context is not given.

    Raises:
        UnsupportedModel: A rope type or key that is not implemented.
        CheckpointError: A value that is missing or out of range.
    """
    given = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise CheckpointError(f"config.json: rope_parameters {given!r} is not an object")
    if any(isinstance(value, Mapping) for value in given.values()):
        raise UnsupportedModel(
            f"config.json: rope_parameters by layer type ({', '.join(sorted(given))}) are not "
            "supported"
        )
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in _KEYS:
        raise UnsupportedModel(
            f"config.json: rope type {kind!r} is not supported; supported are {', '.join(_KEYS)}"
        )
    if "partial_rotary_factor" in hf:
        given = {"partial_rotary_factor": hf["partial_rotary_factor"], **given}
    required, optional = _KEYS[kind]
    present = {key for key, value in given.items() if value is not None}
    if given.get("partial_rotary_factor") in (1, 1.0):
        present.discard("partial_rotary_factor")
    for key in sorted(required - present):
        raise CheckpointError(f"config.json: rope type {kind!r} needs {key!r}, which is missing")
    for key in sorted(present - required - optional - _BOOKKEEPING):
        raise UnsupportedModel(f"config.json: rope type {kind!r} with {key!r} is not supported")
    theta = given.get("rope_theta", hf.get("rope_theta"))
    original = hf.get("original_max_position_embeddings") or given.get(
        "original_max_position_embeddings", max_tokens
    )
    rope = RopeConfig(
        kind=kind,
        theta=10_000.0 if theta is None else _positive("rope_theta", theta),
        original_tokens=(
            int(_positive("original_max_position_embeddings", original))
            if kind in _SCALED_FROM_ORIGINAL
            else None
        ),
        truncate=given.get("truncate") is not False,
        short_factor=_factors(given, "short_factor", head_dim),
        long_factor=_factors(given, "long_factor", head_dim),
        **{
            key: _positive(key, given[key])
            for key in sorted(present & (required | optional))
            if key not in ("truncate", "short_factor", "long_factor")
        },
    )
    _check(rope)
    return rope


def _check(rope: RopeConfig) -> None:
    if rope.factor is not None and rope.factor < 1:
        raise CheckpointError(f"config.json: rope factor {rope.factor:g} is below 1")
    if rope.partial_rotary_factor > 1:
        raise CheckpointError(
            f"config.json: partial_rotary_factor {rope.partial_rotary_factor:g} is above 1"
        )
    low, high = rope.low_freq_factor, rope.high_freq_factor
    if low is not None and high is not None and high <= low:
        raise CheckpointError(
            f"config.json: rope high_freq_factor {high:g} must be above low_freq_factor {low:g}"
        )


def _positive(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(f"config.json: rope {key} = {value!r} is not a positive number")
    return float(value)


def _factors(given: Mapping[str, Any], key: str, head_dim: int) -> tuple[float, ...]:
    values = given.get(key)
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) != head_dim // 2:
        raise CheckpointError(
            f"config.json: rope {key} must be a list of head_dim / 2 = {head_dim // 2} numbers"
        )
    return tuple(_positive(key, value) for value in values)
