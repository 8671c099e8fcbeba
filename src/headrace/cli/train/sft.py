"""`headrace train sft`: tune a model on chats."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.train.options import (
    AdapterChoice,
    Json,
    Model,
    Out,
    ResumeMode,
    Sets,
    TensorBoard,
    finish,
    with_adapter,
)
from headrace.training.recipe import Resume


def sft(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(
            help="JSON lines of `messages` (and `tools`) as in OpenAI's API, or a directory of "
            "such files."
        ),
    ],
    out: Out = Path("tuned"),
    adapter: AdapterChoice = None,
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model on what the assistant says in chats."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import sft as recipes

    plan = recipe.with_sets(recipes.Sft(), with_adapter(sets, adapter))
    events = recipes.train(
        plan, model=model, data=data, out=out, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the chats"), json=json)
