"""What a training run is, as frozen values, and `key=value` settings on top of them.

A recipe is Python: a frozen dataclass, its sections frozen dataclasses too. Its fingerprint and its
resolved values go into every checkpoint.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from headrace.data.pack import TokenRow
from headrace.errors import ConfigError


class Resume(StrEnum):
    """What to do with the checkpoints that an output directory holds already."""

    ASK = "ask"
    """Refuse to start, and say what the other two would do."""
    AUTO = "auto"
    """Go on from the last one; start where there is none."""
    NEVER = "never"
    """Discard them and start."""


R = TypeVar("R")
Value = int | float | str | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A Qwen3-shaped decoder with a tied head."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    vocab_tokens: int
    context_tokens: int
    rope_theta: float = 10_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Updates:
    """How many updates, by which optimizer, how large: all that the loop itself asks for."""

    steps: int
    lr: float
    """AdamW's. With `muon`, of what is not a layer's matrix: embeddings, norms, biases."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw = AdamW for everything; muon = Muon for the layers' matrices, AdamW for the rest."""
    matrix_lr: float = 0.02
    """Muon's; not read with `adamw`."""
    weight_decay: float = 0.0
    """Of matrices; biases and norms never decay."""
    beta1: float = 0.9
    beta2: float = 0.95
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    warmup_steps: int = 0
    decay_fraction: float = 0.2
    """The part of the steps over which `wsd` decays."""
    final_factor: float = 0.0
    """Where the decay ends, as a part of the peak."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 = they are left as they are."""
    spike_sigmas: float = 6.0
    """A step so many standard deviations above the window's mean is skipped; 0 = none is."""
    spike_window: int = 128
    """Steps that say what is usual; at least two."""
    skip_limit: int = 8
    """So many skipped in a row, spikes or no numbers at all, end the run."""
    checkpoint_every_s: float = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """How the arithmetic is done; what is computed stays the same but for rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one."""
    threads: int = 0
    """Of one operation; 0 = as torch chooses. Another number is another rounding."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products; weights, their gradients and the optimizer stay float32."""
    compile: bool = False
    """Fuse each layer with torch.compile: worth its minute on a GPU, seldom on a CPU."""
    checkpoint_activations: bool = False
    """Compute each layer's inside again in the backward pass instead of keeping it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """How text becomes the batches of a step."""

    per_step: int
    """Rows that a step's gradient is taken over."""
    row_tokens: int
    """Documents are cut into rows of at most this many tokens."""
    batch_tokens: int
    """A forward pass holds at most this many tokens; a step is as many passes as it needs."""


def with_sets(recipe: R, sets: Iterable[str]) -> R:
    """The recipe with `key=value` strings applied, keys dotted: `pretrain.updates.steps=10`.

    They are applied at once, so that values which only make sense together come in any order.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type.
    """
    given: dict[str, str] = {}
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r} has no '='; write key=value")
        known = settings(recipe)
        key = key.strip()
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"--set: unknown recipe key {key!r}; {hint}")
        given[key] = text
    return _replaced(recipe, given, "")


def settings(recipe: object) -> dict[str, Value]:
    """Dotted key -> value of everything that `--set` can change."""
    flat: dict[str, Value] = {}
    for item in fields(_dataclass(recipe)):
        value = getattr(recipe, item.name)
        if is_dataclass(value):
            flat |= {f"{item.name}.{name}": inner for name, inner in settings(value).items()}
        elif isinstance(value, Value):
            flat[item.name] = value
    return flat


def resolved(recipe: object) -> dict[str, Any]:
    """Every value of the recipe, as it goes into a checkpoint."""
    return asdict(_dataclass(recipe))


def fingerprint(recipe: object, *data_hashes: str) -> str:
    """SHA-256 of the recipe and of what it is trained on."""
    text = json.dumps([resolved(recipe), *data_hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rows_hash(rows: Iterable[TokenRow]) -> str:
    """SHA-256 of ids and weights in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row.ids).to_bytes(8, "big"))
        digest.update(row.ids.tobytes())
        digest.update(row.weights.tobytes())
    return digest.hexdigest()


def _replaced(part: Any, given: Mapping[str, str], prefix: str) -> Any:
    """`part` with every value of `given` whose key begins with `prefix`."""
    hints = get_type_hints(type(part))
    changes: dict[str, Any] = {}
    for item in fields(part):
        key, value = prefix + item.name, getattr(part, item.name)
        if key in given:
            changes[item.name] = _parsed(key, given[key], hints[item.name])
        elif is_dataclass(value) and any(name.startswith(f"{key}.") for name in given):
            changes[item.name] = _replaced(value, given, f"{key}.")
    return replace(part, **changes)


def _parsed(key: str, text: str, kind: Any) -> Value:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ConfigError(f"--set: {key} = {text!r} is none of {', '.join(get_args(kind))}")
        return text
    if kind is str:
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"--set: {key} = {text!r} is not a bool; write true or false")
        return text == "true"
    try:
        value: int | float = kind(text)
    except ValueError:
        raise ConfigError(f"--set: {key} = {text!r} is not a {kind.__name__}") from None
    if not (value >= 0 and math.isfinite(value)):
        raise ConfigError(f"--set: {key} = {text!r} is out of range; give a number >= 0")
    return value


def _dataclass(recipe: object) -> Any:
    if not is_dataclass(recipe):
        raise TypeError(f"a recipe is a dataclass, not a {type(recipe).__name__}")
    return recipe
