"""`quantization_config` of a `config.json` ⇄ `Quantization`: which matrix is stored how.

Invariant: a matrix is either in `kept` by its name or in the one format of the rest; a layout,
format or name that this version does not know is refused, never guessed. Loads no torch.

    "quantization_config": {
        "quant_method": "headrace", "layout": 1, "format": "int4", "group": 32,
        "kept": {"lm_head": "int8", "model.layers.0.mlp.down_proj": "bf16"}
    }

Stored tensors, NAME being a matrix: `NAME.packed` (U8, tiles of 16 rows as the native kernels read
them) for int8 and int4; `NAME.weight` (F8_E4M3) and `NAME.weight_scale` (F32, one a row) for fp8;
`NAME.weight` as ever for bf16. A tied head is stored once, under `lm_head`, and the embedding looks
its rows up there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel, UserError

METHOD, LAYOUT = "headrace", 1
PACKED, FP8, FULL = ("int8", "int4"), "fp8", "bf16"
FORMATS = (*PACKED, FP8)
GROUPS = (32, 64, 128)
HEAD = "lm_head"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How a checkpoint's matrices are stored."""

    format: str
    """int8 | int4 | fp8."""
    group: int = 0
    """Inputs that share a scale; 0 for fp8, whose rows each have one."""
    kept: Mapping[str, str] = field(default_factory=dict[str, str])
    """Matrices in another format, by their names in the file: bf16 | int8."""

    def of(self, name: str) -> str:
        """The format of a matrix by its name in the file, without `.weight`."""
        return self.kept.get(name, self.format)

    @classmethod
    def from_hf(cls, hf: Any) -> "Quantization":
        """Parse a `quantization_config`.

        Raises:
            UnsupportedModel: Another program's method, or a layout or format of another version.
            CheckpointError: A value that is missing or malformed.
        """
        if not isinstance(hf, Mapping):
            raise CheckpointError(f"config.json: quantization_config {hf!r:.100} is not an object")
        method = hf.get("quant_method")
        if method != METHOD:
            raise UnsupportedModel(
                f"config.json: quantization_config of quant_method {method!r} is not supported; "
                f"use the full-precision checkpoint, or `{METHOD} quantize` of it"
            )
        layout: object = hf.get("layout")
        if isinstance(layout, bool) or layout != LAYOUT:
            raise UnsupportedModel(
                f"config.json: quantization_config layout {layout!r} is not supported; this "
                f"version of headrace reads {LAYOUT}: quantize the model again"
            )
        made = cls(
            format=_one_of("format", hf.get("format"), FORMATS),
            group=_group(hf),
            kept=_kept(hf),
        )
        for key in sorted(set(hf) - {"quant_method", "layout", "format", "group", "kept"}):
            raise UnsupportedModel(
                f"config.json: quantization_config with {key!r} is not supported"
            )
        return made

    def to_hf(self) -> dict[str, Any]:
        """The `quantization_config` of these."""
        return {
            "quant_method": METHOD,
            "layout": LAYOUT,
            "format": self.format,
            "group": self.group,
            "kept": dict(self.kept),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """A matrix, or several, that are to stay in another format."""

    pattern: str
    """A name or part of one between dots; `*` and `?` stand for anything."""
    format: str = FULL

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """`lm_head`, `down_proj=int8`, `layers.0=bf16`.

        Raises:
            UserError: Another format.
        """
        pattern, given, format = text.partition("=")
        if given and format not in (FULL, *PACKED):
            raise UserError(
                f"--keep {text!r}: {format!r} is not a format to keep a matrix in; "
                f"there are {FULL}, {', '.join(PACKED)}"
            )
        return cls(pattern=pattern.strip("."), format=format or FULL)

    def matches(self, name: str) -> bool:
        """Whether a matrix's name contains the pattern, from dot to dot."""
        return fnmatchcase(f".{name}.", f"*.{self.pattern}.*")


def choose_kept(names: Iterable[str], keep: Iterable[Keep], format: str) -> dict[str, str]:
    """What `keep` means for these matrices; the first pattern that matches decides.

    Raises:
        UserError: A pattern that matches nothing, or everything kept.
    """
    listed, rules = list(names), list(keep)
    for rule in rules:
        if not any(rule.matches(name) for name in listed):
            raise UserError(
                f"--keep {rule.pattern!r} matches no matrix; there are {', '.join(_kinds(listed))}"
            )
    chosen = {
        name: next((rule.format for rule in rules if rule.matches(name)), format) for name in listed
    }
    kept = {name: own for name, own in chosen.items() if own != format}
    if len(kept) == len(listed):
        raise UserError(f"every matrix is kept from {format}; leave out a --keep")
    return kept


def _kinds(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _one_of(key: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UnsupportedModel(
            f"config.json: quantization_config {key} {value!r} is not supported; "
            f"supported are {', '.join(known)}"
        )
    return str(value)


def _group(hf: Mapping[str, Any]) -> int:
    group: object = hf.get("group")
    known = (0,) if hf.get("format") == FP8 else GROUPS
    if isinstance(group, bool) or not isinstance(group, int) or group not in known:
        raise UnsupportedModel(
            f"config.json: quantization_config group {group!r} is not supported for "
            f"{hf.get('format')}; supported are {', '.join(map(str, known))}"
        )
    return group


def _kept(hf: Mapping[str, Any]) -> dict[str, str]:
    kept = hf.get("kept", {})
    if not isinstance(kept, Mapping):
        raise CheckpointError(
            f"config.json: quantization_config kept {kept!r:.100} is not an object"
        )
    known = (FULL,) if hf.get("format") == FP8 else (FULL, *PACKED)
    return {str(name): _one_of(f"kept {name}", own, known) for name, own in kept.items()}
