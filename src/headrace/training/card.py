"""A run's directory -> the card of the model it made, as the hub's tools read it.

Every number, text and name comes from the run: its log, its checkpoints, its manifest, the files of
the model and the card of its base. Nothing is made up: a fact that the run does not hold is said to
be missing, in the place where a reader looks for it.
"""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headrace import __version__
from headrace.data.manifest import SourceCount, as_json
from headrace.model.checkpoint import DTYPES
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.files import peek, read_tensors
from headrace.training.log import FILE as LOG
from headrace.training.markdown import bullets, cell, front_matter, table, without_front_matter

CARD = "README.md"
"""The name that the hub shows."""
CARDS = (CARD, "MODEL_CARD.md")
"""Names that a card may have."""
MANIFEST = "manifest.json"

_USES = {
    "pretrain": "A base model: it goes on from a text. It was not trained to answer or to follow "
    "instructions, and is a start for tuning.",
    "sft": "Tuned on conversations: it answers in its chat template.",
}
_RECIPE_LINES = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a card is made from; None and empty = the run does not hold it."""

    name: str
    config: ModelConfig
    parameters: int
    stored_bytes: int
    stored_as: Sequence[str]
    licence: str | None = None
    base: str | None = None
    """Name or directory of the model that was tuned."""
    sources: Sequence[Mapping[str, Any]] = ()
    """Rows of the manifest."""
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    records: Sequence[Mapping[str, Any]] = ()
    """Of the training log."""


def write_manifest(run: Path, sources: Sequence[SourceCount]) -> None:
    """Note what a run is trained on, for its card."""
    text = json.dumps({"sources": as_json(sources)}, indent=1)
    (run / MANIFEST).write_text(text + "\n", encoding="utf-8")


def note_data(run: Path, data: Path, *, records: int) -> None:
    """Note a file or directory of records whose licence nobody has stated.

    Args:
        run: The run's directory.
        data: What it reads.
        records: Chats, pairs or prompts that were read from it.
    """
    files = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    digest, size = hashlib.sha256(), 0
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        size += path.stat().st_size
    row = SourceCount(
        source=data.name, licence="", documents=records, text_bytes=size, sha256=digest.hexdigest()
    )
    write_manifest(run, [row])


def facts_of_run(decoder: Decoder, *, dtype: str, run: Path, base: Path | None = None) -> Facts:
    """What a run's directory holds of a model that is about to be written.

    Args:
        decoder: The model.
        dtype: That it will be stored in.
        run: The directory of the run that made it.
        base: The directory of the model that was tuned.
    """
    parameters = sum(value.numel() for value in decoder.state_dict().values())
    return Facts(
        name=run.resolve().name,
        config=decoder.config,
        parameters=parameters,
        stored_bytes=parameters * DTYPES[dtype].itemsize,
        stored_as=(dtype,),
        licence=None if base is None else licence_of(base),
        base=None if base is None else base.resolve().name,
        sources=_json(run / MANIFEST).get("sources", []),
        recipe=_recipe(run / "checkpoints"),
        records=_records(run / LOG),
    )


def facts_of_directory(directory: Path) -> Facts:
    """What a model's own files say of it.

    Raises:
        CheckpointError: It is no checkpoint.
    """
    tensors = read_tensors(directory)
    return Facts(
        name=directory.resolve().name,
        config=peek(directory).config,
        parameters=sum(
            entry.elements for name, entry in tensors.items() if not name.endswith("_scale")
        ),
        stored_bytes=sum(entry.stored_bytes for entry in tensors.values()),
        stored_as=sorted({entry.dtype for entry in tensors.values()}),
        licence=licence_of(directory),
    )


def card(facts: Facts) -> str:
    """The card, ready to be written."""
    stages = list(dict.fromkeys(str(r["stage"]) for r in facts.records if r["kind"] == "step"))
    sections = (
        front_matter(
            {
                "license": facts.licence,
                "library_name": "transformers",
                "pipeline_tag": "text-generation",
                "base_model": facts.base,
                "tags": ["headrace", *stages],
            }
        ),
        f"# {facts.name}",
        _summary(facts),
        "## Intended use",
        "\n\n".join(_USES[stage] for stage in stages[-1:] if stage in _USES)
        or "Not stated by whoever made it.",
        "## Data",
        _data(facts),
        "## Training",
        _training(facts, stages),
        "## Evaluation",
        _evaluation(facts, stages),
        *_samples(facts),
        "## Licence",
        _licence(facts),
        "## Limits",
        bullets(_limits(facts)),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def of_export(source: Path, *, name: str, note: str, tags: Sequence[str]) -> str:
    """The card of a converted model: its own where it has one, with what was done to it above.

    Args:
        source: The directory that was converted.
        name: Of the result.
        note: What was done, in Markdown.
        tags: For the hub.
    """
    own = next((source / one for one in CARDS if (source / one).is_file()), None)
    told = own.read_text("utf-8") if own else card(facts_of_directory(source))
    head = front_matter(
        {
            "license": licence_of(source),
            "pipeline_tag": "text-generation",
            "base_model": source.resolve().name,
            "tags": ["headrace", *tags],
        }
    )
    return f"{head}\n\n# {name}\n\n{note}\n\n{without_front_matter(told).rstrip()}\n"


def _summary(facts: Facts) -> str:
    model = facts.config
    base = f"Tuned from `{facts.base}`. " if facts.base else ""
    return (
        f"{base}A decoder of the {model.family} family with {facts.parameters:,} parameters, "
        f"{model.num_hidden_layers} layers, a vocabulary of {model.vocab_size:,} and a context of "
        f"{model.context_tokens:,} tokens; {facts.stored_bytes / 1e6:,.1f} MB stored as "
        f"{', '.join(facts.stored_as)}. Made by headrace {__version__} with torch "
        f"{torch.__version__} on Python {platform.python_version()}."
    )


def _data(facts: Facts) -> str:
    if not facts.sources:
        return "The run has no manifest of its data: sources, licences and amounts are not known."
    return table(
        ("source", "licence", "documents", "bytes", "SHA-256"),
        [
            (
                cell(str(row.get("source", "-"))),
                cell(str(row.get("licence") or "not stated")),
                f"{row.get('documents', 0):,}",
                f"{row.get('text_bytes', 0):,}",
                f"`{str(row.get('sha256', '-'))[:16]}…`",
            )
            for row in facts.sources
        ],
    )


def _training(facts: Facts, stages: Sequence[str]) -> str:
    if not stages:
        return "There is no training log: how it was trained is not known."
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        steps = [r for r in facts.records if r["kind"] == "step" and r["stage"] == stage]
        last = steps[-1]
        tail = [r["loss"] for r in steps[-max(1, len(steps) // 20) :]]
        rows.append(
            (
                stage,
                f"{last['step']:,}",
                f"{last.get('tokens', 0):,}",
                f"{steps[0]['loss']:.4f}",
                f"{sum(tail) / len(tail):.4f}",
                f"{last.get('skipped', 0):,}",
            )
        )
    header = ("stage", "steps", "tokens", "first loss", "loss over the last 5 %", "steps skipped")
    lines = [f"{key} = {value}" for key, value in _flat(facts.recipe)]
    left = len(lines) - _RECIPE_LINES
    if left > 0:
        lines = [*lines[:_RECIPE_LINES], f"... and {left} more, in the checkpoint's state.json"]
    recipe = "```text\n" + "\n".join(lines) + "\n```" if lines else "Its recipe is not kept."
    return f"{table(header, rows)}\n\n{recipe}"


def _evaluation(facts: Facts, stages: Sequence[str]) -> str:
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        scores = [r for r in facts.records if r["kind"] == "score" and r["stage"] == stage]
        for name in _measures(scores):
            first, last = scores[0], scores[-1]
            before = f"{first[name]:.4g} (step {first['step']:,})" if len(scores) > 1 else "-"
            rows.append((stage, name, before, f"{last[name]:.4g} (step {last['step']:,})"))
    if not rows:
        return "Nothing was held out, so that nothing was measured."
    told = "On held-out data of the same sources; losses are nats a token."
    return f"{told}\n\n{table(('stage', 'measure', 'first', 'last'), rows)}"


def _measures(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        name
        for name, value in (scores[-1] if scores else {}).items()
        if name != "step" and isinstance(value, int | float) and name in scores[0]
    ]


def _samples(facts: Facts) -> tuple[str, ...]:
    samples = [r for r in facts.records if r["kind"] == "sample"]
    if not samples:
        return ()
    last = [r for r in samples if (r["stage"], r["step"]) == _when(samples[-1])]
    rows = [(cell(r["prompt"]), cell(r["answer"])) for r in last]
    return ("## What it says", "As it came, greedily.", table(("prompt", "answer"), rows))


def _when(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["stage"], record["step"]


def _licence(facts: Facts) -> str:
    if facts.licence:
        return f"`{facts.licence}`, as its base's card or its own says."
    of_texts = sorted({str(row["licence"]) for row in facts.sources if row.get("licence")})
    if not of_texts:
        return "Not stated."
    return f"Not stated for the weights. Of the texts: {', '.join(of_texts)}."


def _limits(facts: Facts) -> list[str]:
    lines = [f"Made for at most {facts.config.context_tokens:,} tokens of context."]
    if not any(r["kind"] == "score" for r in facts.records):
        lines.append("How well it does was not measured.")
    lines.append(
        "No evaluation of safety, bias or knowledge is recorded; it may say what is false."
    )
    return lines


def _recipe(checkpoints: Path) -> Mapping[str, Any]:
    """The resolved recipe of the checkpoint that was written last."""
    found = sorted(checkpoints.glob("*/state.json"), key=lambda path: path.stat().st_mtime)
    return _json(found[-1]).get("config", {}) if found else {}


def _records(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat += _flat(inner, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", inner))
    return flat


def licence_of(directory: Path) -> str | None:
    """The licence that the YAML of a directory's card names."""
    for name in CARDS:
        if (directory / name).is_file():
            text = (directory / name).read_text(encoding="utf-8")
            head = text[4:].partition("\n---\n")[0] if text.startswith("---\n") else ""
            found = re.search(r"(?m)^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", head)
            if found:
                return found[1]
    return None
