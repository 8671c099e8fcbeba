"""A base directory and an adapter directory ⇄ one merged directory, with what merging moved.

Merging adds each adapter to its matrix and rounds to the base's type. An adapter that was trained
over NF4 can be added to the matrices that NF4 stands for, which is the model that was trained, or
to the full-precision ones, which are closer to the original base but not what the adapter has seen:
how far the logits move is measured, for either, on rows of random tokens.

Unmerging with the base at hand is exact, and checked: base and adapter must give the merged weights
bit for bit. Without the base the adapter is subtracted, which is right to the rounding of the type;
DoRA's division by a norm that is gone cannot be undone so.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from headrace.errors import CheckpointError, UserError
from headrace.model import adapters, checkpoint
from headrace.model.adapter_files import WEIGHTS, AdapterFile, load_adapter, peek_adapter
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.model.files import read_json
from headrace.model.lora import LoraEmbedding, LoraLinear

RECORD = "merge.json"
Into = Literal["full", "nf4"]
_CARRIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "chat_template*", "*.model", "*.tiktoken", "LICENSE*",
)  # fmt: skip
_PROBE_ROWS, _PROBE_TOKENS = 4, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What merging did."""

    path: Path
    into: Into
    trained_over: Into
    logit_shift: dict[str, float]
    """Largest change of a logit against base and adapter apart, as trained, for each way of merging
    that was tried."""
    largest_logit: float
    """Largest magnitude of those logits, to judge it by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmerged:
    """What unmerging did."""

    path: Path
    exact: bool
    """Whether these are the base's bits; else the adapter was subtracted."""


def merge_directory(base: Path, adapter: Path, out: Path, *, into: Into | None = None) -> Merged:
    """Write the merged model.

    Args:
        base: The directory that the adapter was trained over.
        adapter: The adapter's directory.
        out: The directory to write, which must not exist.
        into: full | nf4; None = what the adapter was trained over.

    Raises:
        CheckpointError: Anything that cannot be read, does not fit or cannot be written.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another directory or remove it")
    loaded = checkpoint.load(base)
    file = peek_adapter(adapter, loaded.config)
    trained_over: Into = "nf4" if file.plan.base else "full"
    chosen = into or trained_over
    expected = _logits(_adapted(base, adapter, trained_over))
    shift: dict[str, float] = {}
    for way in _ways(trained_over, chosen):
        decoder = _adapted(base, adapter, way)
        config = adapters.bake(decoder)
        shift[way] = float((_logits(decoder) - expected).abs().max())
        if way == chosen:
            record = _record(loaded.fingerprint, base, adapter, chosen)
            checkpoint.save(
                decoder,
                config,
                out,
                generation=loaded.generation,
                beside={**_carried(base), RECORD: (json.dumps(record, indent=2) + "\n").encode()},
            )
    return Merged(
        path=out,
        into=chosen,
        trained_over=trained_over,
        logit_shift=shift,
        largest_logit=float(expected.abs().max()),
    )


def unmerge_directory(merged: Path, adapter: Path, out: Path, *, base: Path | None) -> Unmerged:
    """Write the base of a merged model.

    Args:
        merged: What `merge_directory` wrote.
        adapter: The adapter that it merged.
        out: The directory to write, which must not exist.
        base: The base, to have its exact bits; None = subtract.

    Raises:
        UserError: Another adapter, or one that cannot be subtracted.
        CheckpointError: Anything that cannot be read or written, or weights that are not the sum.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another directory or remove it")
    record = read_json(merged / RECORD)
    if record.get("adapter_sha256") != _sha256(adapter):
        raise UserError(f"{merged} was made with another adapter than {adapter}; give that one")
    made = checkpoint.load(merged)
    if base is not None:
        into: Into = "nf4" if record.get("into") == "nf4" else "full"
        decoder = _adapted(base, adapter, into)
        adapters.bake(decoder)
        _same(decoder, made.decoder, merged)
        original = checkpoint.load(base)
        decoder, config = original.decoder, original.config
    else:
        decoder, config = made.decoder, made.config
        _subtract(decoder, adapter)
    carried = {name: value for name, value in _carried(merged).items() if name != RECORD}
    checkpoint.save(decoder, config, out, generation=made.generation, beside=carried)
    return Unmerged(path=out, exact=base is not None)


def _ways(trained_over: Into, chosen: Into) -> tuple[Into, ...]:
    """Those worth measuring: both, where the adapter knows NF4."""
    return ("full", "nf4") if "nf4" in (trained_over, chosen) else ("full",)


def _adapted(base: Path, adapter: Path, way: Into) -> Decoder:
    loaded = checkpoint.load(base)
    load_adapter(loaded.decoder, adapter, nf4=way == "nf4", fingerprint=loaded.fingerprint)
    return loaded.decoder


@torch.no_grad()
def _logits(decoder: Decoder) -> Tensor:
    """Of rows of random tokens, the same for every model of this vocabulary."""
    generator = torch.Generator().manual_seed(0)
    tokens = min(_PROBE_TOKENS, decoder.config.context_tokens)
    total = _PROBE_ROWS * tokens
    ids_T = torch.randint(decoder.config.vocab_size, (total,), generator=generator)
    pos_T = torch.arange(total) % tokens
    doc_T = torch.arange(total) // tokens
    return decoder.logits(decoder.hidden(ids_T, pos_T, Packed(doc_T)))


@torch.no_grad()
def _subtract(decoder: Decoder, adapter: Path) -> None:
    """Take an adapter's sums off merged matrices, in place."""
    file: AdapterFile = peek_adapter(adapter, decoder.config)
    if any(spec.dora for spec in file.plan.specs.values()) or file.plan.whole:
        kind = "modules trained whole" if file.plan.whole else "DoRA"
        raise UserError(f"{kind} cannot be subtracted from merged weights; give --base")
    load_adapter(decoder, adapter, nf4=False)
    for name, wrapper in adapters.wrappers(decoder).items():
        assert isinstance(wrapper, LoraLinear | LoraEmbedding), name
        wrapper.merged = (wrapper.base_weight - wrapper.delta()).to(wrapper.base_weight.dtype)
        wrapper.base_weight.copy_(wrapper.merged)
    adapters.detach(decoder)


def _same(ours: Decoder, merged: Decoder, path: Path) -> None:
    stored = merged.state_dict()
    for name, value in ours.state_dict().items():
        if name not in stored or not torch.equal(stored[name], value):
            raise CheckpointError(
                f"{path}: {name} is not what this base and adapter make; one of the three was "
                "changed since"
            )


def _record(fingerprint: str, base: Path, adapter: Path, into: Into) -> dict[str, str]:
    return {
        "base": str(base),
        "base_fingerprint": fingerprint,
        "adapter_sha256": _sha256(adapter),
        "into": into,
    }


def _sha256(adapter: Path) -> str:
    with (adapter / WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _carried(directory: Path) -> dict[str, bytes]:
    """Tokenizer, template and licence: what serving needs beside weights."""
    found = {path for pattern in _CARRIED for path in directory.glob(pattern) if path.is_file()}
    return {path.name: path.read_bytes() for path in sorted(found)}
