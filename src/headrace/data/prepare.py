"""A plan -> a prepared directory: clean every unit, find duplicates, encode, write the manifest.

What is finished lies in `OUT/.work` under the fingerprint of plan and inputs, so the same command
run again after a crash, a full disk or Ctrl-C goes on where it stopped; the manifest comes last and
the working directory goes. Nothing about the machine, the time or the number of workers is in what
is written: the same plan on the same files gives the same bytes.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.data import atomic, clean, dedup, encode, shards
from headrace.data.contamination import NgramIndex, evaluation_texts
from headrace.data.execute import Executor, Work
from headrace.data.manifest import SourceDigests
from headrace.data.plan import Plan, Unit, input_files, units
from headrace.errors import DataError
from headrace.tokens import Tokenizer

_STATE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Something happened: how much of which step is done."""

    step: str
    done: int
    total: int


def prepare(plan: Plan, out: Path, executor: Executor) -> Iterator[Progress]:
    """Make `out`; yields what happens.

    Raises:
        DataError: No input, input that cannot be read to its end, nothing left to train on, a full
            disk, or an `out` that holds something else.
    """
    todo = units(plan)
    tokenizer = Tokenizer.load(plan.tokenizer)
    end = encode.end_id(tokenizer, plan.end_token)
    inputs: list[dict[str, object]] = []
    paths = input_files(plan)
    for place, path in enumerate(paths):
        yield Progress(step="hashing the input", done=place, total=len(paths))
        size = path.stat().st_size
        inputs.append({"path": str(path), "bytes": size, "sha256": shards.file_hash(path)})
    fingerprint = plan.fingerprint(
        shards.FORMAT, tokenizer.fingerprint, *(str(item["sha256"]) for item in inputs)
    )
    if _admit(out, fingerprint):
        return
    work = out / ".work"
    index = _index(plan)
    if index is not None:
        clean.save_index(work, index)
    cleaner = clean.Cleaner(plan=plan, work=work)
    yield from _run(executor, cleaner, todo, "cleaning")
    counts = [json.loads(clean.counts_path(work, unit.number).read_bytes()) for unit in todo]
    _refuse_bare(plan, counts)
    yield Progress(step="finding duplicates", done=0, total=1)
    outcome = dedup.deduplicate(plan, work, len(todo))
    encoder = encode.Encoder(plan=plan, work=work, out=out)
    yield from _run(executor, encoder, todo, "encoding")
    made = [json.loads(encode.done_path(work, unit.number).read_bytes()) for unit in todo]
    body = _manifest(plan, fingerprint, inputs, counts, made)
    if not body["documents"]["kept"]:
        reasons = ", ".join(f"{name} {n:,}" for name, n in body["dropped"].items()) or "no records"
        raise DataError(
            f"no document is left of {body['documents']['read']:,} read ({reasons}); loosen what "
            "drops them, or give other sources"
        )
    body["tokenizer"] = {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "path": str(plan.tokenizer),
    }
    body["dtype"] = encode.dtype_for(tokenizer.vocab_size)
    body["end_id"] = end
    body["duplicates"] = asdict(outcome)
    if index is not None:
        body["decontamination"] = {
            "ngram_words": index.n,
            "sets": list(index.sets),
            "texts": index.texts,
            "texts_too_short": index.too_short,
        }
    with atomic.named(out):
        tokenizer.save(out)
    atomic.write_bytes(
        out / shards.MANIFEST, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode()
    )
    shutil.rmtree(work)


def _admit(out: Path, fingerprint: str) -> bool:
    """Whether `out` is this plan's, finished; else make it ready to go on or to begin."""
    if (out / shards.MANIFEST).exists():
        held = shards.Shards(out).manifest.get("fingerprint")
        if held == fingerprint:
            shutil.rmtree(
                out / ".work", ignore_errors=True
            )  # the end came right after the manifest
            return True
        raise DataError(f"{out} holds data prepared otherwise; give another --out or remove it")
    state = out / ".work" / _STATE
    if state.exists():
        held = json.loads(state.read_bytes())["fingerprint"]
        if held != fingerprint:
            raise DataError(
                f"{out} was begun with other settings or other input and not finished; remove "
                f"{out} to begin anew, or run what began it again to finish it"
            )
        return False
    if out.exists() and any(path.name != state.parent.name for path in out.iterdir()):
        raise DataError(f"{out} is not empty; give a directory of its own")
    state.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(state, json.dumps({"fingerprint": fingerprint}).encode())
    return False


def _index(plan: Plan) -> NgramIndex | None:
    if not plan.against:
        return None
    sets = {path.name.split(".")[0]: evaluation_texts(path) for path in plan.against}
    if len(sets) < len(plan.against):
        raise DataError("two evaluation sets have one name; rename a file, or give their directory")
    return NgramIndex.of(sets, n=plan.ngram_words)


def _run(executor: Executor, work: Work, todo: Sequence[Unit], step: str) -> Iterator[Progress]:
    yield Progress(step=step, done=0, total=len(todo))
    for done, _ in enumerate(executor(work, todo), start=1):
        yield Progress(step=step, done=done, total=len(todo))


def _refuse_bare(plan: Plan, counts: Sequence[dict[str, Any]]) -> None:
    """A file without a single text was meant otherwise: a wrong field, not bad records."""
    found: dict[str, list[Any]] = {}
    for part in counts:
        for path, (texts, bare, detail) in part["files"].items():
            held = found.setdefault(path, [0, 0, ""])
            found[path] = [held[0] + texts, held[1] + bare, held[2] or detail]
    for path, (texts, bare, detail) in found.items():
        if bare and not texts:
            raise DataError(f"no record of {path} is a text: {detail}; see --text-field")
    if not sum(part["read"] for part in counts):
        names = ", ".join(source.name for source in plan.sources)
        raise DataError(f"the corpus is empty: no record in {names}")


def _manifest(
    plan: Plan,
    fingerprint: str,
    inputs: Sequence[dict[str, object]],
    counts: Sequence[dict[str, Any]],
    made: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    replaced: Counter[str] = Counter()
    digests = SourceDigests()
    for part in counts:
        dropped.update(part["reasons"])
        replaced.update(part["pii"])
    for part in made:
        dropped.update(part["dropped"])
        digests.join(part["sources"])
    entries = [entry for part in made for entry in part["shards"]]
    entries.sort(key=lambda entry: entry["split"], reverse=True)
    read = sum(part["read"] for part in counts)
    kept = sum(entry["documents"] for entry in entries)
    assert read == kept + sum(dropped.values()), "documents went missing"
    return {
        "format": shards.FORMAT,
        "fingerprint": fingerprint,
        "plan": plan.as_json(),
        "inputs": list(inputs),
        "documents": {
            "read": read,
            "read_bytes": sum(part["read_bytes"] for part in counts),
            "kept": kept,
        },
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "examples": [line for part in counts for line in part["examples"]][:20],
        "pii": dict(sorted(replaced.items())),
        "sources": digests.as_json(),
        "tokens": {
            split: sum(entry["tokens"] for entry in entries if entry["split"] == split)
            for split in (shards.TRAIN, shards.HELD_OUT)
        },
        "shards": entries,
    }
