"""What `headrace data prepare` is asked to do, and the units of work that it becomes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.data import files
from headrace.data.contamination import JSON
from headrace.data.filters import AnyFilter
from headrace.data.minhash import Permutations
from headrace.data.near import Bands, bands_for
from headrace.errors import DataError

BUILT_IN = ("stdlib", "docstrings")
"""Sources that every machine has: Python's standard library, as code and as prose."""
_GZIP_RATIO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where documents come from, and under which licence where they do not say it themselves."""

    name: str
    """Begins the ids of its documents."""
    path: Path | None
    """A file or directory; None for the built-in ones."""
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Near:
    """How near-duplicates are looked for."""

    threshold: float = 0.8
    """Jaccard similarity of word n-grams from which two documents are the same."""
    permutations: int = 128
    shingle_words: int = 5
    seed: int = 1

    def bands(self) -> Bands:
        """How signatures are cut."""
        return bands_for(self.permutations, self.threshold)

    def functions(self) -> Permutations:
        """What signatures are made with."""
        return Permutations.of(self.permutations, seed=self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A corpus to be made. Everything here but `unit_bytes` decides what comes out."""

    sources: tuple[Source, ...]
    tokenizer: Path
    end_token: str | None = None
    """The special token after each document; None = the tokenizer's eos."""
    text_field: str = "text"
    licences: tuple[str, ...] = ()
    """Only documents under one of these; empty = all."""
    prose_lines: bool = False
    """Remove the lines that C4 removes before anything is judged."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied in this order; the first that drops a document names the reason."""
    scrubber: str | None = None
    """Import path of a PII scrubber (`headrace.data.pii:scrub`); None = nothing is replaced."""
    against: tuple[Path, ...] = ()
    """Evaluation sets whose texts must not be trained on."""
    ngram_words: int = 13
    exact: bool = True
    """Drop documents equal to an earlier one but for white space."""
    near: Near | None = Near()
    held_out_one_in: int = 0
    """One document in so many goes to the split `held_out`; 0 = none."""
    shard_tokens: int = 1 << 27
    unit_bytes: int = 64 << 20
    """Text read by one task; also the upper bound of what one writes at a time."""

    def __post_init__(self) -> None:
        for name, low in (("shard_tokens", 2), ("unit_bytes", 1), ("held_out_one_in", 0)):
            value: int = getattr(self, name)
            if value < low:
                raise DataError(f"{name} {value} is below {low}")
        if self.held_out_one_in == 1:
            raise DataError("held_out_one_in 1 would leave nothing to train on; give 0 or 2 and up")
        names = [source.name for source in self.sources]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise DataError(f"two sources are called {double!r}; name one otherwise (NAME=PATH)")
        if not self.sources:
            raise DataError("no source; give a file, a directory, or stdlib")
        if self.near is not None:
            self.near.bands()

    def as_json(self) -> dict[str, object]:
        """The plan as it stands in the manifest."""
        made = json.loads(json.dumps(asdict(self), default=str))
        made["filters"] = [{"filter": type(item).__name__, **asdict(item)} for item in self.filters]
        return made

    def fingerprint(self, *hashes: str) -> str:
        """SHA-256 of the plan and of what it reads."""
        text = json.dumps([self.as_json(), *hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Some records of one file; or some modules of a built-in source, where `path` is None."""

    source: Source
    file: int
    """Place of the file among all inputs: orders documents, with the record's number."""
    path: Path | None
    relative: str
    stripe: files.Stripe


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one task reads, and where it leaves what it made."""

    number: int
    pieces: tuple[Piece, ...]


def units(plan: Plan) -> tuple[Unit, ...]:
    """The work, cut by the sizes of the files alone: small ones together, large ones in stripes.

    Raises:
        DataError: A source that is not there or holds nothing readable.
    """
    pieces = list(_pieces(plan))
    made: list[Unit] = []
    held: list[Piece] = []
    size = 0
    for piece, piece_bytes in pieces:
        if held and size + piece_bytes > plan.unit_bytes:
            made.append(Unit(number=len(made), pieces=tuple(held)))
            held, size = [], 0
        held.append(piece)
        size += piece_bytes
    made.append(Unit(number=len(made), pieces=tuple(held)))
    return tuple(made)


def input_files(plan: Plan) -> tuple[Path, ...]:
    """Every file that is read, sources first, then the evaluation sets."""
    corpora = [source.path for source in plan.sources if source.path is not None]
    found = [file for path in corpora for file in files.files_in(path)]
    return (*found, *(file for path in plan.against for file in files.files_in(path, also=JSON)))


def _pieces(plan: Plan) -> Sequence[tuple[Piece, int]]:
    made: list[tuple[Piece, int]] = []
    number = 0
    for source in plan.sources:
        found = [None] if source.path is None else files.files_in(source.path)
        for path in found:
            # The standard library is some 30 MB.
            size = 32 << 20 if path is None else path.stat().st_size
            size *= _GZIP_RATIO if path is not None and path.suffix == ".gz" else 1
            count = -(-size // plan.unit_bytes) or 1
            root = source.path
            relative = (
                ""
                if path is None or root is None or path == root
                else (path.relative_to(root).as_posix())
            )
            made += [
                (
                    Piece(
                        source=source,
                        file=number,
                        path=path,
                        relative=relative,
                        stripe=files.Stripe(index=index, count=count),
                    ),
                    size // count,
                )
                for index in range(count)
            ]
            number += 1
    return made
