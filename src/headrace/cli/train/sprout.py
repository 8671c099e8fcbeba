"""`headrace train sprout`: rebuild the bundled model from text."""

from pathlib import Path
from typing import Annotated

import typer

from headrace import app
from headrace.cli.train.options import Json, Out, ResumeMode, Sets, TensorBoard, finish
from headrace.training.recipe import Resume


def sprout(
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Directory of *.jsonl.gz and *.txt.gz to train on as well; without it the Python "
            "standard library alone."
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions about paragraphs, in SQuAD 2.0's JSON; without it, questions are built "
            "from the texts alone."
        ),
    ] = None,
    out: Out = Path("sprout"),
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Rebuild sprout, the small model that comes with headrace."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import sprout as recipes
    from headrace.training.recipes import sprout_plan

    chosen = recipe.with_sets(sprout_plan.default(), sets or [])
    events = recipes.train(
        chosen,
        texts=texts,
        questions=questions,
        open_sampler=app.rollout_engine,
        out=out,
        resume=resume,
        tensorboard=tensorboard,
    )
    finish(follow(events, waiting="reading the texts, training the tokenizer"), json=json)
