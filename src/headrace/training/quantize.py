"""A checkpoint and texts → the checkpoint quantized, measured on text that it was not fitted to.

    for event in run(plan, source=Path("model"), out=Path("model-int4"), texts=None): ...

Invariant: what is measured is what is written, in the arithmetic that serves it (activations
rounded to int8 too); a directory whose held-out loss rose by more than `plan.max_loss` is not
written. Texts are cut into rows whose order is a function of their names alone, so the same texts
and number of threads give the same model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from headrace.data import sources
from headrace.data.manifest import manifest
from headrace.data.pack import PackedBatch, TokenRow, cut, pack, whole
from headrace.data.sources import Document
from headrace.errors import DataError, UserError
from headrace.model import checkpoint, quantized
from headrace.model.calibrate import MatrixDone, Text, quantize_calibrated
from headrace.model.files import peek
from headrace.model.matrices import matrices
from headrace.model.quantization import (
    FORMATS,
    FP8,
    FULL,
    GROUPS,
    HEAD,
    PACKED,
    Keep,
    Quantization,
)
from headrace.tokens import Tokenizer
from headrace.training import quality
from headrace.training.quality import Quality
from headrace.training.quantize_card import CARDS, Facts, with_section

METHODS = ("rtn", "gptq")
MAX_LOSS = {"int8": 0.002, "int4": 0.05, FP8: 0.02}
"""Nats a token that the held-out loss may rise by where nothing else is said; 0.001 is a tenth of a
percent of perplexity, about what int8 costs."""
DEFAULT_KEEP = {"int4": (Keep(pattern=HEAD, format="int8"),)}
"""The head of an int4 model costs more than all its other matrices together (docs/quantization.md),
and a tied one is the embedding too."""

_HELD_OUT_ONE_IN = 4
_BATCH_ROWS = 4
_COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "*.tiktoken", "*.jinja", "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to quantize."""

    format: str
    """int8 | int4 | fp8."""
    group: int = 32
    method: str = "auto"
    """rtn | gptq | auto: gptq for int4, else rtn."""
    keep: Sequence[Keep] = ()
    max_loss: float | None = None
    """None = `MAX_LOSS` of the format."""
    calibration_tokens: int = 65_536
    held_out_tokens: int = 32_768
    row_tokens: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """Texts are read, and full precision is measured."""

    method: str
    quantization: Quantization
    matrices: int
    calibration_tokens: int
    held_out_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The quantized model on the held-out text."""

    quality: Quality
    max_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The directory is there."""

    path: Path
    weight_bytes_before: int
    weight_bytes: int


Event = Begun | MatrixDone | Measured | Written


def run(plan: Plan, *, source: Path, out: Path, texts: Path | None) -> Iterator[Event]:
    """Quantize a checkpoint directory; yields what happens.

    Args:
        plan: How.
        source: A full-precision directory with its tokenizer.
        out: The directory to write, which must not exist.
        texts: A directory or file as `sources.texts` takes it, a quarter of whose documents are for
            measuring; None = the documentation in this Python's standard library.

    Raises:
        UserError: A plan that makes no sense, or a loss above `max_loss`; nothing is written.
        CheckpointError: A directory that cannot be loaded or written.
        DataError: Texts that cannot be read or are too few.
    """
    method, max_loss = _checked(plan, source, out)
    documents = list(sources.texts(texts)) if texts is not None else list(sources.stdlib_prose())
    rows = _rows(documents, Tokenizer.load(source), plan)
    loaded = checkpoint.load(source, dtype="float32")
    decoder, keep = loaded.decoder, _keep(plan)
    chosen = quantized.plan(decoder, format=plan.format, group=plan.group, keep=keep)
    before = quality.baseline(decoder, rows.held_out)
    calibration = rows.calibration if method == "gptq" else []
    yield Begun(
        method=method,
        quantization=chosen,
        matrices=sum(chosen.of(name) != FULL for name in matrices(loaded.config)),
        calibration_tokens=_count(calibration),
        held_out_tokens=_count(rows.held_out),
    )
    if method == "gptq":
        yield from quantize_calibrated(decoder, [text(batch) for batch in calibration], chosen)
    else:
        quantized.quantize_decoder(decoder, format=plan.format, group=plan.group, keep=keep)
    measured = quality.compare(before, decoder)
    yield Measured(quality=measured, max_loss=max_loss)
    if measured.loss_increase > max_loss:
        raise UserError(_refusal(plan, method, measured, max_loss))
    facts = Facts(
        quantization=chosen,
        method=method,
        texts=manifest(documents),
        calibration_tokens=_count(calibration),
        quality=measured,
        max_loss=max_loss,
        weight_bytes_before=_weight_bytes(source),
        weight_bytes=sum(tensor.nbytes for tensor in decoder.state_dict().values()),
    )
    config = replace(loaded.config, quantization=chosen)
    checkpoint.save(decoder, config, out, dtype="bfloat16", beside=_beside(source, facts))
    yield Written(
        path=out, weight_bytes_before=facts.weight_bytes_before, weight_bytes=_weight_bytes(out)
    )


def _checked(plan: Plan, source: Path, out: Path) -> tuple[str, float]:
    """The method and the limit that a plan means."""
    if plan.format not in FORMATS:
        raise UserError(f"--to {plan.format!r} is not one of {', '.join(FORMATS)}")
    if plan.method not in ("auto", *METHODS):
        raise UserError(f"--method {plan.method!r} is not one of auto, {', '.join(METHODS)}")
    if plan.method == "gptq" and plan.format == FP8:
        raise UserError("--method gptq is for int8 and int4; fp8 is rounded: leave --method out")
    if out.exists():
        raise UserError(f"{out} exists already; choose another directory with --out, or remove it")
    already = peek(source).config.quantization
    if already is not None:
        raise UserError(
            f"{source} is quantized already ({already.format}); quantize the full-precision model"
        )
    calibrated = plan.method == "gptq" or (plan.method == "auto" and plan.format == "int4")
    limit = MAX_LOSS[plan.format] if plan.max_loss is None else plan.max_loss
    return "gptq" if calibrated else "rtn", limit


def _keep(plan: Plan) -> list[Keep]:
    """The plan's rules, then the format's own, which the plan's go before."""
    return [*plan.keep, *DEFAULT_KEEP.get(plan.format, ())]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    calibration: Sequence[PackedBatch]
    held_out: Sequence[PackedBatch]


def _rows(documents: Sequence[Document], tokenizer: Tokenizer, plan: Plan) -> _Rows:
    held = [d for d in documents if sources.is_held_out(d.id, one_in=_HELD_OUT_ONE_IN)]
    if not held or len(held) == len(documents):
        raise DataError(
            f"{len(documents)} documents are too few to fit on some and measure on others; "
            "give --calibrate more files, or longer ones"
        )
    held_ids = {document.id for document in held}
    rest = [document for document in documents if document.id not in held_ids]
    return _Rows(
        calibration=batches(rest, tokenizer, plan.row_tokens, plan.calibration_tokens),
        held_out=batches(held, tokenizer, plan.row_tokens, plan.held_out_tokens),
    )


def batches(
    documents: Iterable[Document], tokenizer: Tokenizer, row_tokens: int, tokens: int
) -> list[PackedBatch]:
    """At most so many tokens of the documents, in rows taken from all over them.

    Each row begins with the tokenizer's BOS where prompts do.
    """
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    pieces = {
        f"{document.id}#{number}": row.ids.tolist()
        for document in documents
        for number, row in enumerate(cut(tokenizer.encode(document.text), max_tokens=row_tokens))
    }
    rows, left = list[TokenRow](), tokens
    for name in sorted(pieces, key=sources.id_hash):
        row = whole([*begin, *pieces[name]])
        left -= len(row.ids) - 1
        if left < 0:
            break
        rows.append(row)
    return pack(rows, max_tokens=_BATCH_ROWS * (row_tokens + len(begin)))


def text(batch: PackedBatch) -> Text:
    """A batch as calibration takes it."""
    return Text(
        ids_T=torch.from_numpy(batch.ids_T),
        pos_T=torch.from_numpy(batch.pos_T),
        doc_T=torch.from_numpy(batch.doc_T),
    )


def _count(batches: Sequence[PackedBatch]) -> int:
    return sum(batch.tokens for batch in batches)


def _weight_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def _beside(source: Path, facts: Facts) -> dict[str, bytes]:
    """What goes along with the weights: tokenizer, template, licence and card."""
    copied = {
        path.name: path.read_bytes()
        for pattern in _COPIED
        for path in source.glob(pattern)
        if path.is_file()
    }
    card = next((source / name for name in CARDS if (source / name).is_file()), None)
    name = card.name if card is not None else CARDS[0]
    text = card.read_text("utf-8") if card is not None else f"# {source.resolve().name}\n"
    return {**copied, name: with_section(text, facts).encode()}


def _refusal(plan: Plan, method: str, measured: Quality, max_loss: float) -> str:
    ways = ["keep sensitive layers with --keep"]
    if method == "rtn" and plan.format in PACKED:
        ways.insert(0, "calibrate with --method gptq")
    elif method == "gptq":
        ways.append("calibrate on texts like those it will serve")
    if plan.format != FP8 and plan.group > min(GROUPS):
        ways.insert(0, f"lower --group to {min(GROUPS)}")
    return (
        f"{plan.format} by {method} raises the held-out loss by {measured.loss_increase:.4f} nats "
        f"a token (perplexity {measured.perplexity_before:.4g} to "
        f"{measured.perplexity_after:.4g}), over the limit of {max_loss:g}; nothing was written. "
        f"{'; '.join(ways)}; or accept it with --max-loss {measured.loss_increase * 1.1:.2g}"
    )
