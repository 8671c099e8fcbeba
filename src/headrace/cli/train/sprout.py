"""`headrace train sprout`: rebuild the bundled model from text."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.report import emit_json, progress, progress_console
from headrace.cli.train.options import Json, Out, ResumeMode, Sets
from headrace.errors import ServiceError
from headrace.training.recipe import Resume


def sprout(
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Directory of *.jsonl.gz and *.txt.gz to train on as well; without it the Python "
            "standard library alone."
        ),
    ] = None,
    out: Out = Path("sprout"),
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    json: Json = False,
) -> None:
    """Rebuild sprout, the small model that comes with headrace."""
    from headrace.training import loop, recipe
    from headrace.training.recipes import sprout as recipes

    chosen = recipe.with_sets(recipes.default(), sets or [])
    console = progress_console()
    scored: recipes.Scored | None = None
    published: recipes.Published | None = None
    total = chosen.pretrain.updates.steps + chosen.chat.updates.steps
    try:
        with progress("reading the texts, training the tokenizer", total=total) as bar:
            for event in recipes.train(chosen, texts=texts, out=out, resume=resume):
                match event:
                    case recipes.Prepared():
                        console.print(
                            f"{event.parameters:,} parameters; {event.documents:,} documents, "
                            f"{event.pretrain_tokens:,} tokens; {event.chat_rows:,} conversations, "
                            f"{event.chat_tokens:,} tokens"
                        )
                    case loop.StepReport():
                        before = 0 if event.stage == "pretrain" else chosen.pretrain.updates.steps
                        bar.update(
                            completed=before + event.step,
                            description=f"{event.stage} loss {event.loss:.3f}, "
                            f"{event.tokens_per_s:,.0f} tok/s",
                        )
                    case recipes.Scored():
                        scored = event
                        console.print(
                            f"{event.stage} step {event.step}: held-out loss "
                            f"{event.score.loss:.3f}, perplexity {event.score.perplexity:.1f}, "
                            f"{event.score.bits_per_byte:.3f} bits per byte"
                        )
                    case recipes.Sampled():
                        console.print(f"  {event.prompt!r} -> {event.answer!r}", markup=False)
                    case recipes.Published():
                        published = event
    except loop.Interrupted as error:
        raise ServiceError(str(error)) from error
    assert published is not None
    if json:
        emit_json({"published": published, "held_out": scored})
    else:
        typer.echo(f"{published.path}: {published.weight_bytes:,} bytes of weights")
        typer.echo(f"talk to it: headrace chat --model {published.path}")
