"""What a training run is, as frozen values, and `key=value` settings on top of them.

A recipe is Python: a function that returns a `Recipe`. Its fingerprint goes into every checkpoint.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from headrace.errors import ConfigError


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
class Stage:
    """One pass of the loop with one objective."""

    steps: int
    rows_per_step: int
    row_tokens: int
    """Documents are cut into rows of at most this many tokens."""
    batch_tokens: int
    """A forward pass holds at most this many tokens; a step is as many passes as it needs."""
    matrix_lr: float
    """Muon's, for the layers' matrices."""
    other_lr: float
    """AdamW's, for embeddings and norms."""
    warmup_steps: int
    decay_fraction: float
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    talk_rows_per_step: int = 0
    """Hand-written conversations in each step, beside `rows_per_step` quoted ones."""
    replay_rows_per_step: int = 0
    """Pre-training rows of `context_tokens` mixed into each step, against forgetting."""
    checkpoint_every_s: float = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A run from text to chat model."""

    name: str
    shape: Shape
    pretrain: Stage
    chat: Stage
    seed: int = 0
    threads: int = 2
    held_out_one_in: int = 40
    """One document in so many is never trained on."""
    held_out_rows: int = 64
    evaluate_every_steps: int = 110
    quoted_max: int = 100_000
    """At most so many conversations built from documentation."""
    talk_max: int = 100_000
    """At most so many hand-written ones."""
    limits_bytes: tuple[tuple[str, int], ...] = ()
    """At most so many bytes of a source."""


def with_sets(recipe: Recipe, sets: Iterable[str]) -> Recipe:
    """The recipe with `key=value` strings applied, keys dotted: `pretrain.steps=10`.

    Raises:
        ConfigError: An unknown key, or a value of the wrong type.
    """
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
        value = _parsed(key, text, known[key])
        section, _, name = key.rpartition(".")
        if section:
            part: Any = replace(getattr(recipe, section), **{name: value})
            recipe = replace(recipe, **{section: part})
        else:
            recipe = replace(recipe, **{name: value})
    return recipe


def settings(recipe: Recipe) -> dict[str, int | float | str]:
    """Dotted key -> value of everything that `--set` can change."""
    flat: dict[str, int | float | str] = {}
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        if is_dataclass(value):
            flat |= {f"{item.name}.{f.name}": getattr(value, f.name) for f in fields(value)}
        elif isinstance(value, int | float | str):
            flat[item.name] = value
    return flat


def fingerprint(recipe: Recipe, *data_hashes: str) -> str:
    """SHA-256 of the recipe and of what it is trained on."""
    text = json.dumps([asdict(recipe), *data_hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(key: str, text: str, old: int | float | str) -> int | float | str:
    if isinstance(old, str):
        return text
    kind = type(old)
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"--set: {key} = {text!r} is not a {kind.__name__}") from None
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--set: {key} = {text!r} is out of range; give a number >= 0")
    return value
