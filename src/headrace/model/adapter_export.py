"""An adapter's directory → what it is, in words and numbers, and a directory for another program.

vLLM loads PEFT's format with less in it; what it would refuse or pass over in silence is refused
here, with the way out.

Source: vLLM's `PEFTHelper` (vllm/lora/peft_helper.py) and its list of supported ranks.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import UserError
from headrace.model import checkpoint
from headrace.model.adapter_files import (
    AdapterFile,
    Origin,
    load_adapter,
    peek_adapter,
    save_adapter,
)
from headrace.model.adapters import EMBEDDING
from headrace.model.files import peek, read_tensors
from headrace.model.fingerprint import fingerprint
from headrace.model.quantization import HEAD


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What `headrace adapter inspect` reports."""

    path: Path
    method: str
    """LoRA, with rsLoRA's scale or DoRA's magnitudes."""
    ranks: str
    alphas: str
    dropout: float
    targets: Mapping[str, int]
    """Last part of a module's name -> how many of them are adapted."""
    whole: tuple[str, ...]
    parameters: int
    share: float
    """Of the base's parameters."""
    dtypes: tuple[str, ...]
    stored_bytes: int
    base: str
    """That the adapter names."""
    trained_over: str
    fit: str
    """Whether the base that was given is the one."""
    not_for_vllm: tuple[str, ...]
    """Why vLLM cannot load it as it is; empty = it can, from a rank limit of its own on."""


def describe(directory: Path, base: Path) -> Description:
    """Read an adapter against its base; no weight is read.

    Raises:
        CheckpointError: Anything that cannot be read or does not fit.
    """
    file = peek_adapter(directory, peek(base).config)
    tensors = read_tensors(base)
    own = fingerprint(base, {entry.file for entry in tensors.values()})
    specs = list(file.plan.specs.values())
    first = specs[0]
    nf4 = file.plan.base
    return Description(
        path=directory,
        method=("DoRA" if first.dora else "LoRA") + (", rsLoRA's scale" if first.rslora else ""),
        ranks=_listed({spec.rank for spec in specs}),
        alphas=_listed({spec.alpha for spec in specs}),
        dropout=first.dropout,
        targets=Counter(name.rpartition(".")[2] for name in file.plan.specs),
        whole=file.plan.whole,
        parameters=file.numbers,
        share=file.numbers / sum(entry.elements for entry in tensors.values()),
        dtypes=file.dtypes,
        stored_bytes=file.stored_bytes,
        base=file.base,
        trained_over=f"in NF4, blocks of {nf4['block']}" if nf4 else "in full precision",
        fit=_fit(file, own),
        not_for_vllm=tuple(_vllm_faults(file, max_lora_rank=max(spec.rank for spec in specs))),
    )


def export_directory(
    directory: Path, base: Path, out: Path, *, for_vllm: bool, dtype: str, max_lora_rank: int
) -> None:
    """Write an adapter anew: PEFT's current fields, no more, in a type of choice.

    Args:
        directory: The adapter.
        base: Its base.
        out: The directory to write, which must not exist.
        for_vllm: Refuse what vLLM does not load.
        dtype: float32 | bfloat16 | float16.
        max_lora_rank: That vLLM is started with.

    Raises:
        UserError: vLLM would not load it.
        CheckpointError: Anything that cannot be read, does not fit or cannot be written.
    """
    loaded = checkpoint.load(base)
    file = peek_adapter(directory, loaded.config)
    faults = list(_vllm_faults(file, max_lora_rank=max_lora_rank)) if for_vllm else []
    if faults:
        raise UserError(f"vLLM cannot load {directory}: {'; '.join(faults)}")
    load_adapter(loaded.decoder, directory, fingerprint=loaded.fingerprint)
    save_adapter(
        loaded.decoder,
        out,
        base=file.base or str(base),
        origin=Origin(fingerprint=loaded.fingerprint, nf4=file.plan.base),
        dtype=dtype,
    )


def _vllm_faults(file: AdapterFile, *, max_lora_rank: int) -> list[str]:
    specs, faults = file.plan.specs, list[str]()
    highest = max(spec.rank for spec in specs.values())
    merging = "merge it instead: headrace adapter merge"
    if any(spec.dora for spec in specs.values()):
        faults.append(f"it has no DoRA - {merging}")
    if file.plan.whole:
        faults.append(f"it has no modules_to_save ({', '.join(file.plan.whole)}) - {merging}")
    ends = [name for name in (EMBEDDING, HEAD) if name in specs]
    if ends:
        faults.append(f"adapters of {' and '.join(ends)} are not for every model there - {merging}")
    if len({(spec.rank, spec.alpha) for spec in specs.values()}) > 1:
        faults.append(f"it passes over rank_pattern and alpha_pattern - {merging}")
    if highest > max_lora_rank:
        faults.append(
            f"rank {highest} exceeds max_lora_rank {max_lora_rank} - start vLLM with "
            f"--max-lora-rank {_vllm_rank(highest)} and say so here"
        )
    return faults


def _vllm_rank(rank: int) -> int:
    """The least rank limit of vLLM's that admits this one."""
    return next((limit for limit in (8, 16, 32, 64, 128, 256, 320, 512) if limit >= rank), rank)


def _fit(file: AdapterFile, own: str) -> str:
    if not file.fingerprint:
        return "shapes fit this base; which weights it was trained over it does not say"
    if file.fingerprint == own:
        return "this is the base that it was trained over"
    return "shapes fit, but these are not the weights that it was trained over"


def _listed(values: set[int] | set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
