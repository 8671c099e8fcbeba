"""An adapter on a decoder ⇄ a directory in PEFT's format: adapter_config.json, safetensors.

Invariant: every tensor of the file goes somewhere and every adapter of the config has its tensors;
what `save_adapter` wrote, PEFT loads with the same outputs, and the other way round.
`headrace.json` beside them says what PEFT's format cannot: which weights exactly the adapter was
trained over, and whether they were in NF4.

Names: `base_model.model.MODULE.lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector`; for an
embedding `.lora_embedding_A` and `_B`; `.weight` of a module that is trained whole. PEFT writes the
base's own `.base_layer.weight` along where the embedding is adapted: it is compared with the base.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headrace.errors import CheckpointError, UserError
from headrace.model import adapter_config
from headrace.model.adapters import Plan, attach, module_names, wrappers
from headrace.model.checkpoint import DTYPES
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.files import read_header, read_json
from headrace.model.lora import LoraEmbedding, LoraLinear, Whole
from headrace.model.nf4 import BLOCKS
from headrace.model.staging import staged

WEIGHTS, ORIGIN = "adapter_model.safetensors", "headrace.json"
PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<own>lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector(\.weight)?"
    r"|base_layer\.weight|weight|bias)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """What an adapter's directory says, its tensors not read."""

    path: Path
    plan: Plan
    base: str
    """Directory or hub id of the base that it names; empty = none."""
    fingerprint: str
    """Of the base that it was trained over; empty where another program trained it."""
    keys: Mapping[str, tuple[str, str]]
    """Name in the file -> module, name of its own."""
    dtypes: tuple[str, ...]
    numbers: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What an adapter was trained over."""

    fingerprint: str
    """Of the base's directory, as `checkpoint.Checkpoint` has it."""
    nf4: Mapping[str, int | bool] = field(default_factory=dict[str, int | bool])
    """`block` and `double`; empty = full precision."""


def save_adapter(
    decoder: Decoder,
    path: Path | str,
    *,
    base: str,
    origin: Origin,
    dtype: str = "float32",
    beside: Mapping[str, bytes] | None = None,
    replace_existing: bool = False,
) -> None:
    """Write the adapters of a decoder.

    Args:
        decoder: Has adapters.
        path: The directory, which must not exist unless `replace_existing`.
        base: Directory or hub id of the base, for those who load the adapter.
        origin: Of the base.
        dtype: float32 | bfloat16 | float16.
        beside: Further files, by their names: a card.
        replace_existing: Put it in the place of a directory that is there.

    Raises:
        UserError: There are no adapters.
        CheckpointError: It cannot be written.
    """
    found = wrappers(decoder)
    plan = plan_of(decoder)
    if not plan.specs:
        raise UserError("the model has no adapter to save")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not supported; use {', '.join(DTYPES)}")
    tensors = {
        f"{PREFIX}{name}.{own}": parameter.detach().to("cpu", DTYPES[dtype]).contiguous()
        for name, wrapper in found.items()
        for own, parameter in wrapper.own_parameters().items()
    }
    with staged(Path(path), replace_existing=replace_existing) as staging:
        for file, content in (beside or {}).items():
            (staging / file).write_bytes(content)
        described = adapter_config.write(decoder.config, plan, base=base)
        _write_json(staging / adapter_config.FILE, described)
        _write_json(
            staging / ORIGIN,
            {"format": 1, "base_fingerprint": origin.fingerprint, "base_nf4": dict(origin.nf4)},
        )
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})


def peek_adapter(path: Path | str, config: ModelConfig) -> AdapterFile:
    """Read a directory's JSON and header against the config of the base.

    Raises:
        CheckpointError: Anything missing, too much, misshapen or damaged; its subclass
            UnsupportedModel names a feature.
    """
    directory = Path(path)
    hf = read_json(directory / adapter_config.FILE)
    if not (directory / WEIGHTS).is_file() and (directory / "adapter_model.bin").is_file():
        raise CheckpointError(
            f"{directory} has adapter_model.bin, a pickle, which could run anything; save it again "
            "in PEFT with safe_serialization=True"
        )
    entries = read_header(directory / WEIGHTS)
    shapes = {name: entry.shape for name, entry in entries.items()}
    keys = {name: _parsed(directory, config, name) for name in entries}
    ranks: dict[str, int] = {}
    for name, (module, own) in keys.items():
        if own in ("lora_A.weight", "lora_embedding_A"):
            if len(shapes[name]) != 2 or not shapes[name][0]:
                raise CheckpointError(f"{directory}: {name} has shape {list(shapes[name])}")
            ranks[module] = shapes[name][0]
    adapted = {module for module, own in keys.values() if own.startswith("lora_")}
    whole = {module for module, own in keys.values() if own in ("weight", "bias")}
    if not ranks:
        raise CheckpointError(f"{directory / WEIGHTS} holds no adapter")
    order = module_names(config)
    plan = replace(
        adapter_config.parse(hf, config, ranks),
        whole=tuple(name for name in order if name in whole),
    )
    if strange := sorted((adapted - ranks.keys()) | (adapted & whole)):
        raise CheckpointError(
            f"{directory / WEIGHTS}: the tensors of {strange[0]} do not fit together"
        )
    origin = _origin(directory)
    return AdapterFile(
        path=directory,
        plan=replace(plan, base=origin.nf4),
        base=str(hf.get("base_model_name_or_path") or ""),
        fingerprint=origin.fingerprint,
        keys=keys,
        dtypes=tuple(sorted({entry.dtype for entry in entries.values()})),
        numbers=sum(entry.elements for entry in entries.values()),
        stored_bytes=sum(entry.stored_bytes for entry in entries.values()),
    )


def load_adapter(
    decoder: Decoder, path: Path | str, *, nf4: bool | None = None, fingerprint: str = ""
) -> AdapterFile:
    """Put the adapter of a directory on a decoder.

    Args:
        decoder: The base, in full precision or in NF4 already.
        path: The directory.
        nf4: Whether to quantize the base; None = where the adapter was trained so.
        fingerprint: Of the base; where it and the adapter's are known, they must agree.

    Raises:
        CheckpointError: As `peek_adapter`; a tensor of another shape; a base that is not the one.
    """
    file = peek_adapter(path, decoder.config)
    if fingerprint and file.fingerprint and fingerprint != file.fingerprint:
        raise CheckpointError(
            f"{path} was trained over the weights {file.fingerprint[:12]}, these are "
            f"{fingerprint[:12]}; give the base that it was trained over ({file.base or 'unnamed'})"
        )
    base = dict(file.plan.base)
    if nf4 is not None:
        base = (base or {"block": 64, "double": True}) if nf4 else {}
    attach(decoder, replace(file.plan, base=base))
    _fill(decoder, file)
    return file


def plan_of(decoder: Decoder) -> Plan:
    """Which modules of a decoder are adapted."""
    found = wrappers(decoder)
    specs = {name: w.spec for name, w in found.items() if isinstance(w, LoraLinear | LoraEmbedding)}
    return Plan(specs=specs, whole=tuple(name for name, w in found.items() if isinstance(w, Whole)))


@torch.no_grad()
def _fill(decoder: Decoder, file: AdapterFile) -> None:
    found = wrappers(decoder)
    expected = {
        (name, own): parameter
        for name, wrapper in found.items()
        for own, parameter in wrapper.own_parameters().items()
    }
    missing = sorted(".".join(key) for key in expected.keys() - set(file.keys.values()))
    if missing:
        raise CheckpointError(f"{file.path / WEIGHTS} lacks {missing[0]}; the file is incomplete")
    try:
        with safe_open(file.path / WEIGHTS, framework="pt") as tensors:
            for key, (module, own) in file.keys.items():
                value: Tensor = tensors.get_tensor(key)
                if own == "base_layer.weight":
                    _compare(file, key, value, found[module].base_weight)
                    continue
                target = expected.get((module, own))
                if target is None:
                    raise CheckpointError(f"{file.path / WEIGHTS}: {key} has no place in the model")
                if target.shape != value.shape:
                    raise CheckpointError(
                        f"{file.path / WEIGHTS}: {key} has shape {list(value.shape)} where the "
                        f"model calls for {list(target.shape)}"
                    )
                target.copy_(value)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.path / WEIGHTS} cannot be read: {error}") from error


def _compare(file: AdapterFile, key: str, value: Tensor, own: Tensor) -> None:
    if value.shape != own.shape or not torch.equal(value.to(own.device, own.dtype), own):
        raise CheckpointError(
            f"{file.path / WEIGHTS}: {key} is not the base's own weight; the adapter belongs to "
            "another base, or its vocabulary was resized"
        )


def _parsed(directory: Path, config: ModelConfig, key: str) -> tuple[str, str]:
    match = _KEY.fullmatch(key.removeprefix(PREFIX))
    if match is None or not key.startswith(PREFIX):
        raise CheckpointError(f"{directory / WEIGHTS}: {key!r:.200} is not a name that PEFT gives")
    module, own = match["module"], match["own"]
    if module not in module_names(config):
        raise CheckpointError(
            f"{directory / WEIGHTS}: {key!r:.200} adapts {module!r:.200}, which the base has not; "
            "the adapter belongs to another model"
        )
    return module, own.removesuffix(".weight") if "magnitude" in own else own


def _origin(directory: Path) -> Origin:
    path = directory / ORIGIN
    if not path.is_file():
        return Origin(fingerprint="")
    found = read_json(path)
    nf4, fingerprint = found.get("base_nf4", {}), found.get("base_fingerprint", "")
    if found.get("format") != 1:
        raise CheckpointError(f"{path}: format {found.get('format')!r} is not supported; 1 is")
    well = isinstance(nf4, dict) and (not nf4 or (nf4.keys() == {"block", "double"}))
    if not well or not isinstance(fingerprint, str) or nf4.get("block", 64) not in BLOCKS:
        raise CheckpointError(f"{path}: base_nf4 or base_fingerprint is malformed; remove the file")
    return Origin(fingerprint=fingerprint, nf4=nf4)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
