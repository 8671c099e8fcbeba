"""PEFT's `adapter_config.json` ⇄ `Plan`: which modules are adapted, how, and what is refused.

Invariant: a file is computed as PEFT computes it or refused by the field that stands against it; a
field of a later PEFT that is set to anything is refused, never ignored.

Source: `LoraConfig` of peft 0.21.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.adapters import ALL_LINEAR, EMBEDDING, Plan
from headrace.model.config import ModelConfig
from headrace.model.lora import Spec
from headrace.model.matrices import matrices
from headrace.model.quantization import HEAD

FILE = "adapter_config.json"
_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "bias",
    "task_type",
    "base_model_name_or_path",
}
# Of no consequence to the arithmetic: where it came from, how its first values were drawn, or a
# setting of a feature whose switch is refused.
_IDLE = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
}
# Ways to draw the first values that leave the base's weights alone.
_INITS = (True, False, "gaussian", "eva", "orthogonal")


def parse(hf: Mapping[str, Any], config: ModelConfig, ranks: Mapping[str, int]) -> Plan:
    """The plan that a file describes.

    Args:
        hf: The file's content.
        config: Of the base.
        ranks: Modules that the weight file has adapters for, and their ranks there.

    Raises:
        UnsupportedModel: Another method, or a feature that is not computed here, by its field.
        CheckpointError: A value that is missing, malformed or contradicted by the weight file.
    """
    _refuse(hf)
    rank, alpha = _int(hf, "r"), _number(hf, "lora_alpha")
    rank_pattern, alpha_pattern = _patterns(hf, "rank_pattern"), _patterns(hf, "alpha_pattern")
    dropout = _number(hf, "lora_dropout", 0.0)
    if not 0 <= dropout < 1:
        raise CheckpointError(f"{FILE}: lora_dropout {dropout} is not in [0, 1)")
    specs: dict[str, Spec] = {}
    for name, stored in ranks.items():
        said = int(_of(rank_pattern, name, rank))
        if said != stored:
            raise CheckpointError(
                f"{FILE} gives {name} rank {said}, but the weight file holds rank {stored}"
            )
        specs[name] = Spec(
            rank=stored,
            alpha=float(_of(alpha_pattern, name, alpha)),
            dropout=dropout,
            rslora=bool(hf.get("use_rslora")),
            dora=bool(hf.get("use_dora")),
        )
    _check_targets(hf, config, specs)
    return Plan(specs=specs)


def write(config: ModelConfig, plan: Plan, *, base: str) -> dict[str, Any]:
    """The `adapter_config.json` of a plan; PEFT 0.5 and later, and vLLM, read it.

    Args:
        config: Of the base.
        plan: Its adapters agree in dropout, rslora and dora.
        base: Directory or hub id of the base.
    """
    specs = plan.specs.values()
    rank, alpha = _commonest(s.rank for s in specs), _commonest(s.alpha for s in specs)
    first = next(iter(specs))
    assert all(
        (s.dropout, s.rslora, s.dora) == (first.dropout, first.rslora, first.dora) for s in specs
    )
    return {
        "alpha_pattern": {n: _whole(s.alpha) for n, s in plan.specs.items() if s.alpha != alpha},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": _whole(alpha),
        "lora_bias": False,
        "lora_dropout": first.dropout,
        "modules_to_save": list(plan.whole) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {n: s.rank for n, s in plan.specs.items() if s.rank != rank},
        "revision": None,
        "target_modules": _shortest(config, plan.specs),
        "task_type": "CAUSAL_LM",
        "use_dora": first.dora,
        "use_rslora": first.rslora,
    }


def _refuse(hf: Mapping[str, Any]) -> None:
    method = hf.get("peft_type")
    if method != "LORA":
        raise UnsupportedModel(f"{FILE}: peft_type {method!r} is not supported; LORA is")
    if hf.get("bias", "none") != "none":
        raise UnsupportedModel(
            f"{FILE}: bias {hf['bias']!r} is not supported; train with none, or merge it in PEFT"
        )
    if hf.get("task_type") not in (None, "CAUSAL_LM"):
        raise UnsupportedModel(
            f"{FILE}: task_type {hf['task_type']!r} is not supported; CAUSAL_LM is"
        )
    init = hf.get("init_lora_weights", True)
    if init not in _INITS:
        raise UnsupportedModel(
            f"{FILE}: init_lora_weights {init!r} changes the base's weights, so the adapter does "
            "not belong to them; save it in PEFT with path_initial_model_for_weight_conversion"
        )
    for key in sorted(set(hf) - _READ - _IDLE):
        if hf[key]:  # False, None, 0 and {} are how PEFT writes that a feature is off
            raise UnsupportedModel(f"{FILE}: {key} {hf[key]!r:.100} is not supported")


def _check_targets(hf: Mapping[str, Any], config: ModelConfig, specs: Mapping[str, Spec]) -> None:
    """Refuse a weight file that lacks what the config says it adapts."""
    if hf.get("layers_to_transform") is not None:
        return  # which layers these are, the weight file says
    is_target = _matcher(hf.get("target_modules"), "target_modules")
    excluded = _matcher(hf.get("exclude_modules"), "exclude_modules")
    saved = _matcher(hf.get("modules_to_save"), "modules_to_save")
    linear = hf.get("target_modules") == ALL_LINEAR
    for name in (EMBEDDING, *matrices(config)):
        wanted = name not in (EMBEDDING, HEAD) if linear else is_target(name)
        if wanted and name not in specs and not excluded(name) and not saved(name):
            raise CheckpointError(
                f"{FILE}: target_modules name {name}, but the weight file has no adapter for it; "
                "the file is incomplete"
            )


def _matcher(value: object, key: str) -> Callable[[str], bool]:
    """PEFT's rule: a string is a regular expression for the whole name, a list its last parts."""
    if value is None:
        return lambda name: False
    if isinstance(value, str):
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise CheckpointError(f"{FILE}: {key} {value!r:.100} is no pattern: {error}") from None
        return lambda name: pattern.fullmatch(name) is not None
    if not isinstance(value, list):
        raise CheckpointError(f"{FILE}: {key} {value!r:.100} is neither a list nor a string")
    parts = [str(part) for part in value]
    return lambda name: any(f".{name}".endswith(f".{part}") for part in parts)


def _patterns(hf: Mapping[str, Any], key: str) -> dict[re.Pattern[str], float]:
    value = hf.get(key) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{FILE}: {key} {value!r:.100} is not an object")
    made: dict[re.Pattern[str], float] = {}
    for pattern in value:
        try:
            made[re.compile(rf"(.*\.)?({pattern})$")] = _number(value, pattern)
        except re.error as error:
            raise CheckpointError(
                f"{FILE}: {key} {pattern!r:.100} is no pattern: {error}"
            ) from None
    return made


def _of(patterns: Mapping[re.Pattern[str], float], name: str, default: float) -> float:
    return next((value for pattern, value in patterns.items() if pattern.match(name)), default)


def _shortest(config: ModelConfig, specs: Mapping[str, Spec]) -> list[str]:
    """Last parts where all modules of that name are adapted, else whole names."""
    everything = (EMBEDDING, *matrices(config))
    chosen: list[str] = []
    for name in specs:
        last = name.rpartition(".")[2]
        alike = [other for other in everything if other.rpartition(".")[2] == last]
        chosen.append(last if all(other in specs for other in alike) else name)
    return sorted(set(chosen))


def _commonest(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _whole(value: float) -> int | float:
    """An integer where it is one: vLLM takes no other."""
    return int(value) if value == int(value) else value


def _int(hf: Mapping[str, Any], key: str) -> int:
    value = hf.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{FILE}: {key} {value!r:.100} is not a positive integer")
    return value


def _number(hf: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = hf.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{FILE}: {key} {value!r:.100} is not a number")
    return value
