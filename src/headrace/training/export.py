"""A checkpoint or an adapter -> what others load: a Hugging Face directory, a PEFT adapter, GGUF.

Each comes with its card (`training.card`): README.md in a directory, FILE.md beside a GGUF file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import CheckpointError, UserError
from headrace.model import adapter_config, checkpoint
from headrace.model.adapter_files import Origin, load_adapter, peek_adapter, save_adapter
from headrace.model.adapters import bake
from headrace.model.files import peek, read_header, read_json
from headrace.model.gguf import export as gguf
from headrace.model.hub import resolve
from headrace.training import card
from headrace.training.recipes.base import CARRIED

FORMATS = ("hf", "peft", "gguf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was made."""

    path: Path
    card: Path
    size_bytes: int
    tensors: Mapping[str, int]
    """How many of each stored type."""


def is_adapter(source: Path) -> bool:
    """Whether a directory is an adapter in PEFT's format."""
    return (source / adapter_config.FILE).is_file()


def to_gguf(source: Path, out: Path, *, type: str) -> Iterator[gguf.TensorWritten | Exported]:
    """Write a GGUF file and its card.

    Raises:
        UserError: An adapter, or an unknown type.
        CheckpointError: As `model.gguf.export.export`.
    """
    if is_adapter(source):
        raise UserError(
            f"{source} is an adapter; merge it first: headrace export {source} --to hf --out DIR, "
            "then export DIR"
        )
    licence = card.licence_of(source) or ""
    about = gguf.About(name=source.resolve().name, licence=licence)
    for event in gguf.export(source, out, type=type, about=about):
        match event:
            case gguf.TensorWritten():
                yield event
            case gguf.FileWritten():
                yield _described(source, event, type)


def _described(source: Path, written: gguf.FileWritten, type: str) -> Exported:
    counts = ", ".join(f"{count} as {name}" for name, count in written.tensors.items())
    note = (
        f"`{source.resolve().name}` as one GGUF file for llama.cpp and its kin, type {type}: "
        f"tensors {counts}; {written.size_bytes:,} bytes. Quantized by gguf-py's reference "
        "quantizers, without calibration; what that cost was not measured. What follows is the "
        "card of the model that it was made from."
    )
    beside = written.path.with_suffix(".md")
    text = card.of_export(source, name=written.path.name, note=note, tags=("gguf", type))
    beside.write_text(text, encoding="utf-8")
    return Exported(
        path=written.path, card=beside, size_bytes=written.size_bytes, tensors=written.tensors
    )


def to_hf(source: Path, out: Path, *, base: str | None, dtype: str) -> Exported:
    """Write a directory that transformers loads; an adapter is merged into its base.

    Args:
        source: A checkpoint or an adapter.
        out: The directory, which must not exist.
        base: Of an adapter, in the place of the one that it names.
        dtype: auto | float32 | bfloat16 | float16.

    Raises:
        CheckpointError: As `checkpoint.load` and `checkpoint.save`, or no base is known.
        UserError: `base` for what is no adapter.
    """
    if base is not None and not is_adapter(source):
        raise UserError(f"--base is for adapters, and {source} is a whole model; leave it out")
    origin = _base_of(source, base) if is_adapter(source) else source
    loaded = checkpoint.load(origin, dtype="auto" if not is_adapter(source) else "float32")
    config, stored = loaded.config, dtype
    done = "The same weights"
    if is_adapter(source):
        load_adapter(loaded.decoder, source, fingerprint=loaded.fingerprint)
        config = bake(loaded.decoder)
        stored = peek(origin).config.dtype if dtype == "auto" else dtype
        done = f"The adapter `{source.resolve().name}` merged into `{origin.resolve().name}`"
    if config.quantization is not None and dtype != "auto":
        raise CheckpointError(
            f"{source} is quantized to {config.quantization.format}; leave --type out to copy it, "
            "or export the model it was made from"
        )
    carried = {n: (origin / n).read_bytes() for n in CARRIED if (origin / n).is_file()}
    told = source if is_adapter(source) and _has_card(source) else origin
    text = card.of_export(
        told,
        name=out.name,
        note=f"{done}, stored as {stored if stored != 'auto' else loaded.config.dtype}.",
        tags=("merged",) if is_adapter(source) else (),
    )
    checkpoint.save(
        loaded.decoder,
        config,
        out,
        dtype=stored,
        generation=loaded.generation,
        beside={**carried, card.CARD: text.encode()},
    )
    return _measured(out)


def to_peft(source: Path, out: Path, *, base: str | None, dtype: str) -> Exported:
    """Write an adapter anew in PEFT's format, with its base's name and a card.

    Raises:
        UserError: `source` is no adapter.
        CheckpointError: As `adapter_files.load_adapter`.
    """
    if not is_adapter(source):
        raise UserError(
            f"{source} is a whole model and no adapter, which PEFT's format cannot hold; export it "
            "--to hf"
        )
    origin = _base_of(source, base)
    loaded = checkpoint.load(origin, dtype="float32")
    file = load_adapter(loaded.decoder, source, fingerprint=loaded.fingerprint, nf4=False)
    kept = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[file.dtypes[0]]
    stored = kept if dtype == "auto" else dtype
    name = base or file.base or str(origin)
    note = (
        f"An adapter in PEFT's format over `{name}`: {file.numbers:,} numbers, stored as {stored}."
    )
    text = card.of_export(
        source if _has_card(source) else origin, name=out.name, note=note, tags=("peft",)
    )
    save_adapter(
        loaded.decoder,
        out,
        base=name,
        origin=Origin(fingerprint=loaded.fingerprint, nf4=dict(file.plan.base)),
        dtype=stored,
        beside={card.CARD: text.encode()},
    )
    return _measured(out)


def _base_of(source: Path, given: str | None) -> Path:
    named = given or str(read_json(source / adapter_config.FILE).get("base_model_name_or_path", ""))
    if not named:
        raise CheckpointError(f"{source} names no base; give it with --base")
    origin = resolve(named)
    peek_adapter(source, peek(origin).config)
    return origin


def _has_card(source: Path) -> bool:
    return any((source / name).is_file() for name in card.CARDS)


def _measured(out: Path) -> Exported:
    counts: dict[str, int] = {}
    size = 0
    for path in out.glob("*.safetensors"):
        size += path.stat().st_size
        for entry in read_header(path).values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + 1
    return Exported(path=out, card=out / card.CARD, size_bytes=size, tensors=counts)
