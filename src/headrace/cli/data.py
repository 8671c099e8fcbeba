"""`headrace data prepare|inspect|report`: texts become token shards, and what they are made of."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from headrace import app
from headrace.cli.report import console, emit_json, progress, settings
from headrace.data import execute, files, filters, shards
from headrace.data.document import Document
from headrace.data.plan import BUILT_IN, Near, Plan, Source
from headrace.data.prepare import prepare as run_plan
from headrace.errors import UserError
from headrace.tokens import Tokenizer

data = typer.Typer(no_args_is_help=True, help="Make texts into training data, and look into it.")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Directory = Annotated[Path, typer.Argument(help="A directory that data prepare made.")]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="gopher_quality, gopher_repetition, c4, fineweb, language, or web = the first four; "
        "thresholds after a colon: gopher_quality:min_words=20,max_words=5000. Repeatable, applied "
        "in order. None by default: these rules are for web prose and drop code.",
    ),
]
TextFieldOption = Annotated[str, typer.Option(help="The field or column that holds the text.")]
_UNKNOWN = "unknown"


@data.callback()
def group() -> None:
    """Make texts into training data, and look into it."""


@data.command()
def prepare(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files or directories of *.txt, *.md, *.rst, *.jsonl (also .gz) and *.parquet, as "
            "PATH or NAME=PATH; or stdlib and docstrings, the Python standard library as code and "
            "as prose.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The directory to make.")],
    tokenizer: Annotated[
        str, typer.Option(help="Checkpoint or tokenizer to encode with; default: the model's own.")
    ] = "",
    end_token: Annotated[
        str | None, typer.Option(help="Special token after each document; default: its eos.")
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            help="Licence of documents that name none: LICENCE for all sources or NAME=LICENCE for "
            "one; repeatable. A record's own `licence` or `license` field goes before."
        ),
    ] = None,
    allow_licence: Annotated[
        list[str] | None,
        typer.Option(help="Drop documents under any other licence; repeatable."),
    ] = None,
    text_field: TextFieldOption = "text",
    filter_: FilterOption = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Keep texts in this language (ISO 639: en, de); repeatable."),
    ] = None,
    prose_lines: Annotated[
        bool, typer.Option("--prose-lines", help="First remove the lines that C4 removes.")
    ] = False,
    scrub: Annotated[
        str | None,
        typer.Option(
            help="Replace personal data: built-in (e-mail, phone, IP, card, IBAN), or a function "
            "of yours as MODULE:FUNCTION."
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Evaluation set (*.jsonl, *.json, *.txt, also .gz, *.parquet, or a directory) "
            "whose texts must not be trained on; repeatable."
        ),
    ] = None,
    ngram_words: Annotated[
        int, typer.Option(min=8, help="Length of the runs of words looked for with --against.")
    ] = 13,
    exact: Annotated[
        bool, typer.Option("--exact/--no-exact", help="Drop exact duplicates.")
    ] = True,
    near: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Drop near-duplicates from this Jaccard similarity on; 0 = keep them.",
        ),
    ] = 0.8,
    permutations: Annotated[int, typer.Option(min=1, help="Length of MinHash signatures.")] = 128,
    shingle_words: Annotated[int, typer.Option(min=1, help="Words to a shingle.")] = 5,
    held_out: Annotated[
        int, typer.Option(min=0, help="One document in so many is kept from training; 0 = none.")
    ] = 0,
    shard_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of a shard.")] = 1 << 27,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Run on a Ray cluster; OUT must be seen by all machines.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="With --ray: which cluster; default: as Ray finds it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read, filter, deduplicate, decontaminate, scrub and encode texts into token shards.

    Run again after a crash or a full disk, the same command goes on where it stopped.
    """
    if ray_address is not None and not ray:
        raise UserError("--ray-address without --ray has no effect; add --ray or leave it out")
    if ray and workers is not None:
        raise UserError("--workers is for this machine; a Ray cluster has its own, leave it out")
    chosen = [item for spec in filter_ or () for item in filters.named(spec)]
    if language:
        chosen.append(filters.Language(allowed=tuple(language)))
    plan = Plan(
        sources=_sources(sources, licence or []),
        tokenizer=_tokenizer_path(ctx, tokenizer).resolve(),
        end_token=end_token,
        text_field=text_field,
        licences=tuple(allow_licence or ()),
        prose_lines=prose_lines,
        filters=tuple(chosen),
        scrubber="headrace.data.pii:scrub" if scrub == "built-in" else scrub,
        against=tuple(path.resolve() for path in against or ()),
        ngram_words=ngram_words,
        exact=exact,
        near=Near(threshold=near, permutations=permutations, shingle_words=shingle_words)
        if near
        else None,
        held_out_one_in=held_out,
        shard_tokens=shard_tokens,
    )
    executor = execute.on_ray(ray_address) if ray else execute.local(workers)
    with progress("preparing", total=1) as bar:
        for event in run_plan(plan, out.resolve(), executor):
            bar.update(description=event.step, completed=event.done, total=event.total)
    report(out, as_json=as_json)


@data.command()
def report(path: Directory, as_json: JsonOption = False) -> None:
    """What was read, what was dropped and why, licences, tokens: the manifest, readable."""
    manifest = shards.Shards(path).manifest
    if as_json:
        emit_json(manifest)
        return
    out = console()
    documents, tokens = manifest["documents"], manifest["tokens"]
    out.print(
        f"{path}: {documents['kept']:,} of {documents['read']:,} records kept, "
        f"{tokens['train']:,} tokens to train on, {tokens['held_out']:,} held out, as "
        f"{manifest['dtype']} in {len(manifest['shards'])} shards",
        soft_wrap=True,
    )
    table = _table("dropped because", "records", "share")
    for reason, count in manifest["dropped"].items():
        table.add_row(reason, f"{count:,}", f"{count / documents['read']:.2%}")
    table.add_row("kept", f"{documents['kept']:,}", f"{documents['kept'] / documents['read']:.2%}")
    out.print(table)
    table = _table("source", "licence", "documents", "bytes", texts=2)
    for row in manifest["sources"]:
        texts = (Text(row["source"]), Text(row["licence"]))
        table.add_row(*texts, f"{row['documents']:,}", f"{row['text_bytes']:,}")
    out.print(table)
    for line in _remarks(manifest):
        out.print(Text(line), soft_wrap=True)


@data.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A prepared directory, or a file or directory of texts.")
    ],
    document: Annotated[
        int | None, typer.Option(min=0, help="Of a prepared directory: the whole text of this one.")
    ] = None,
    split: Annotated[str, typer.Option(help="train or held_out.")] = shards.TRAIN,
    verify: Annotated[
        bool, typer.Option("--verify", help="Of a prepared directory: hash every file.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many documents.")] = 10,
    filter_: FilterOption = None,
    text_field: TextFieldOption = "text",
    as_json: JsonOption = False,
) -> None:
    """Documents of prepared data with their provenance, or of raw texts with filters' verdicts."""
    if split not in (shards.TRAIN, shards.HELD_OUT):
        raise UserError(f"no split {split!r}; there are {shards.TRAIN} and {shards.HELD_OUT}")
    if shards.is_prepared(path):
        if filter_:
            raise UserError("--filter judges raw texts; prepared data has been judged already")
        rows = _prepared_rows(path, split, document, verify=verify, limit=limit)
    else:
        if document is not None or verify:
            raise UserError(f"{path} is not prepared data, which --document and --verify are for")
        rows = _raw_rows(path, filter_ or ["web"], text_field, limit=limit)
    if as_json:
        emit_json(rows)
        return
    out = console()
    if document is not None:
        out.print(Text(rows[0].text), soft_wrap=True)
        return
    table = _table("document", "from", "licence", "verdict", "size", "begins", texts=4)
    for row in rows:
        cells = (row.id, row.origin, row.licence, row.verdict)
        begins = " ".join(row.text[:200].split())[:60]
        table.add_row(*map(Text, cells), row.size, Text(begins))
    out.print(table)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    id: str
    origin: str
    licence: str
    verdict: str
    size: str
    text: str


def _prepared_rows(
    path: Path, split: str, document: int | None, *, verify: bool, limit: int
) -> list[_Row]:
    held = shards.Shards(path, split=split)
    if verify:
        held.verify()
    tokenizer = Tokenizer.load(path)
    chosen = range(min(limit, len(held))) if document is None else [document]
    rows: list[_Row] = []
    for place in chosen:
        ids = held.ids(place).tolist()
        where = held.provenance(place)
        rows.append(
            _Row(
                id=where.id,
                origin=where.origin,
                licence=where.licence,
                verdict="kept",
                size=f"{len(ids):,} tokens",
                text=tokenizer.decode(ids[:-1]),
            )
        )
    return rows


def _raw_rows(path: Path, specs: list[str], text_field: str, *, limit: int) -> list[_Row]:
    chosen = [item for spec in specs for item in filters.named(spec)]
    rows: list[_Row] = []
    for file in files.files_in(path):
        for record in files.read(file, text_field=text_field):
            if len(rows) == limit:
                return rows
            origin = f"{file}:{record.number}"
            if isinstance(record, files.Skipped):
                skipped = asdict(record)
                rows.append(
                    _Row(
                        id=f"{file.name}:{record.number}",
                        origin=origin,
                        licence="",
                        verdict=record.reason,
                        size="-",
                        text=skipped["detail"],
                    )
                )
                continue
            name = f"{file.name}:{record.key}"
            licence = record.licence or _UNKNOWN
            found = Document(id=name, source=file.name, licence=licence, text=record.text)
            reasons = [verdict.reason for judge in chosen if not (verdict := judge(found)).keep]
            rows.append(
                _Row(
                    id=name,
                    origin=record.origin or origin,
                    licence=licence,
                    verdict=", ".join(reasons) or "keep",
                    size=f"{len(record.text):,} characters",
                    text=record.text,
                )
            )
    return rows


def _sources(given: list[str], licences: list[str]) -> tuple[Source, ...]:
    made: list[Source] = []
    for item in given:
        name, equals, place = item.partition("=")
        if item in BUILT_IN:
            made.append(Source(name=item, path=None, licence="PSF-2.0"))
            continue
        path = Path(place if equals and not Path(item).exists() else item).expanduser().resolve()
        label = name if equals and not Path(item).exists() else path.name.split(".")[0]
        made.append(Source(name=label, path=path, licence=_UNKNOWN))
    names = {source.name for source in made}
    general = [item for item in licences if item.partition("=")[0] not in names]
    if len(general) > 1:
        raise UserError(
            f"--licence {general[1]!r}: give one licence for all sources, or NAME=LICENCE with "
            f"NAME one of {', '.join(sorted(names))}"
        )
    if general and "=" in general[0]:
        raise UserError(
            f"--licence {general[0]!r}: no source of that name; {', '.join(sorted(names))}"
        )
    named = dict(item.split("=", 1) for item in licences if item not in general)
    return tuple(
        Source(
            name=source.name,
            path=source.path,
            licence=named.get(
                source.name,
                general[0] if general and source.licence == _UNKNOWN else source.licence,
            ),
        )
        for source in made
    )


def _tokenizer_path(ctx: typer.Context, name: str) -> Path:
    if name and Path(name).expanduser().exists():
        return Path(name).expanduser()
    return app.model_path(settings(ctx, {"model.path": name} if name else None))


def _table(*columns: str, texts: int = 1) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        numeric = texts <= place and name != "begins"
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _remarks(manifest: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    found = manifest["duplicates"]
    lines.append(
        f"duplicates: {found['exact']:,} exact; {found['near']:,} near, in {found['clusters']:,} "
        f"clusters, the largest of {found['largest_cluster']:,}"
    )
    if manifest["pii"]:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in manifest["pii"].items())
        lines.append(f"personal data replaced: {counts}")
    if "decontamination" in manifest:
        made = manifest["decontamination"]
        lines.append(
            f"kept apart from {', '.join(made['sets'])}: {made['texts']:,} texts, of which "
            f"{made['texts_too_short']:,} are too short to look for"
        )
    unknown = sum(row["documents"] for row in manifest["sources"] if row["licence"] == _UNKNOWN)
    if unknown:
        lines.append(f"warning: {unknown:,} documents have no licence; name it with --licence")
    lines += [f"skipped: {line}" for line in manifest["examples"][:5]]
    return lines
