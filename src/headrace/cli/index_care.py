"""`headrace index migrate|eval|doctor`: what looks after an index."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from headrace import app
from headrace.cli.report import console, emit_json, progress, settings
from headrace.errors import HeadraceError, UserError
from headrace.retrieval.golden import (
    Mean,
    Question,
    Scores,
    difference,
    evaluate,
    mean,
    read_golden,
)
from headrace.retrieval.health import Health, look
from headrace.retrieval.measures import Comparison, Verdict
from headrace.retrieval.migrate import Migration, Phase, Standing
from headrace.retrieval.opened import OpenIndex
from headrace.types import Embedder, Errand, IndexOwner

Name = Annotated[str, typer.Argument(help="Of the index.")]
Org = Annotated[str, typer.Option(help="Whose it is; with --team.")]
Team = Annotated[str, typer.Option(help="Whose it is; none = the installation's own.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def add(index: typer.Typer) -> None:
    """Put these commands beside the others."""
    index.command()(migrate)
    index.command("eval")(eval_)
    index.command()(doctor)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    embedder: str
    golden: Path | None
    force: bool
    back: bool
    finish: bool


def migrate(
    ctx: typer.Context,
    name: Name,
    embedder: Annotated[str, typer.Option(help="The new model.")] = "",
    golden: Annotated[
        Path | None, typer.Option(help="Questions to compare on: see docs/retrieval.md.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Cut over without --golden, or though it loses.")
    ] = False,
    back: Annotated[bool, typer.Option("--rollback", help="Back to the old model.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Keep what answers now, drop the other.")
    ] = False,
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """Exchange the embedding model of an index while it answers; run it again to go on."""
    chosen, owner = settings(ctx), IndexOwner(org, team)
    wish = _Wish(embedder=embedder, golden=golden, force=force, back=back, finish=finish)
    if back and finish:
        raise UserError("--rollback or --finish, not both")

    async def work() -> tuple[Standing | None, Comparison | None]:
        async with app.open_library(chosen) as library:
            opened = await library.open(name, owner)
            migration = Migration(opened)
            names = set(await library.models(name, owner))
            if embedder:
                names.add(embedder)
            async with app.index_errand(chosen, sorted(names), owner) as errand:
                verdict = await _migrated(opened, migration, errand, wish)
            return await migration.standing(), verdict

    standing, verdict = asyncio.run(work())
    if as_json:
        emit_json({"standing": standing, "comparison": verdict})
        return
    out = console()
    if verdict is not None:
        out.print(
            f"nDCG@10 {verdict.difference:+.4f} (95 % {verdict.low:+.4f} to {verdict.high:+.4f}) "
            f"on {verdict.questions} questions: {verdict.verdict.value}",
            markup=False,
        )
    out.print(_said(name, standing), markup=False)


async def _migrated(
    opened: OpenIndex, migration: Migration, errand: Errand, wish: _Wish
) -> Comparison | None:
    if wish.finish:
        await migration.finish()
        return None
    if wish.back:
        await migration.roll_back(errand)
        return None
    standing = await migration.standing()
    embedder = wish.embedder or ("" if standing is None else standing.plan.embedder)
    if not embedder:
        raise UserError("to which model? name it with --embedder")
    plan = await migration.begin(_model(errand, embedder), errand)
    with progress(f"vectors of {plan.embedder}") as step:
        async for made in migration.fill(errand):
            step.advance(made)
    verdict = None
    if wish.golden is not None:
        verdict = await _compared(opened, migration, errand, read_golden(wish.golden))
        if verdict.verdict is Verdict.WORSE and not wish.force:
            raise UserError(
                f"the new model finds less: nDCG@10 {verdict.difference:+.4f} (95 % "
                f"{verdict.low:+.4f} to {verdict.high:+.4f}); the old one goes on answering. "
                "--force cuts over all the same; --finish drops the new one"
            )
    elif not wish.force:
        raise UserError(
            "the new vectors are there, and nothing says whether they are better: give --golden "
            "FILE, or --force"
        )
    await migration.cut_over(errand)
    return verdict


async def _compared(
    opened: OpenIndex, migration: Migration, errand: Errand, questions: list[Question]
) -> Comparison:
    standing = await migration.standing()
    assert standing is not None
    by_number = {item.number: item for item in await opened.store.generations()}
    old = await evaluate(opened, by_number[standing.plan.old], questions, errand)
    new = await evaluate(opened, by_number[standing.plan.new], questions, errand)
    return difference(new, old, questions)


def eval_(
    ctx: typer.Context,
    name: Name,
    golden: Annotated[Path, typer.Argument(help="Questions, as JSON lines.")],
    org: Org = "",
    team: Team = "",
    as_json: Json = False,
) -> None:
    """How well an index finds what answers, with clustered 95 % intervals."""
    chosen, owner = settings(ctx), IndexOwner(org, team)
    questions = read_golden(golden)

    async def work() -> Scores:
        async with app.open_library(chosen) as library:
            opened = await library.open(name, owner)
            names = await library.models(name, owner)
            async with app.index_errand(chosen, names, owner) as errand:
                return await evaluate(opened, await opened.store.active(), questions, errand)

    scores = asyncio.run(work())
    rows: dict[str, Mean] = {
        "nDCG@10": mean(scores.ndcg, questions),
        "recall@10": mean(scores.recall, questions),
        "hit@10": mean(scores.hit, questions),
        "MRR@10": mean(scores.reciprocal_rank, questions),
    }
    if as_json:
        emit_json({"questions": len(questions), "measures": rows})
        return
    clusters = len({question.cluster for question in questions})
    console().print(f"{len(questions)} questions in {clusters} clusters", markup=False)
    for label, found in rows.items():
        console().print(
            f"{label:10} {found.value:.3f}  {found.low:.3f} to {found.high:.3f}", markup=False
        )


def doctor(
    ctx: typer.Context, name: Name, org: Org = "", team: Team = "", as_json: Json = False
) -> None:
    """Whether an index is whole, finds what it has and is fresh; exit code 1 where not."""
    chosen, owner = settings(ctx), IndexOwner(org, team)

    async def work() -> Health:
        async with app.open_library(chosen) as library:
            opened = await library.open(name, owner)
            return await look(opened, library.sources(name, owner), now_s=time.time())

    health = asyncio.run(work())
    if as_json:
        emit_json(health)
    else:
        out = console()
        out.print(f"store      {'; '.join(health.problems) or 'whole'}", markup=False)
        out.print(
            f"recall     {health.recall:.3f}, filtered {health.filtered_recall:.3f} "
            f"of {health.probes} chunks found by their own vector",
            markup=False,
        )
        for said in health.stale:
            out.print(f"stale      {said}", markup=False)
        for item in health.failed:
            out.print(f"failed     {item.id}: {item.reason}: {item.detail}", markup=False)
    if health.problems or health.stale or min(health.recall, health.filtered_recall) < 0.98:
        raise typer.Exit(1)


def _model(errand: Errand, name: str) -> Embedder:
    """By its name, or by the directory that its name was made of."""
    try:
        return errand.embedder(name)
    except HeadraceError:
        return errand.embedder(Path(name).resolve().name)


def _said(name: str, standing: Standing | None) -> str:
    if standing is None:
        return f"index {name} has one generation"
    model = standing.plan.embedder
    match standing.phase:
        case Phase.DONE:
            return (
                f"{model} answers in {name}; the old model is kept. --rollback goes back at once, "
                "--finish drops it"
            )
        case Phase.ROLLED_BACK:
            return f"the old model answers in {name} again; {model} is kept. --finish drops it"
        case _:
            return f"{model} has vectors of {name}; the old model answers"
