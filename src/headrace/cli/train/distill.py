"""`headrace train distill`: tune a student towards a teacher's distribution."""

from pathlib import Path
from typing import Annotated

import typer

from headrace import app
from headrace.cli.train.options import Json, Model, Out, ResumeMode, Sets, TensorBoard, finish
from headrace.training.recipe import Resume


def distill(
    model: Model,
    teacher: Annotated[
        Path, typer.Option(help="Directory of the model to learn from, with the same tokenizer.")
    ],
    data: Annotated[Path, typer.Option(help="JSON lines of `messages`: chats.")],
    out: Out = Path("distilled"),
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model towards a teacher's distribution, on chats or on its own answers (GKD)."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import distill as recipes

    events = recipes.train(
        recipe.with_sets(recipes.Distill(), sets or []),
        model=model,
        teacher=teacher,
        data=data,
        open_sampler=app.rollout_engine,
        out=out,
        resume=resume,
        tensorboard=tensorboard,
    )
    finish(follow(events, waiting="reading the chats"), json=json)
