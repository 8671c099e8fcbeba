"""`headrace train pretrain`: a new model from texts."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.train.options import Json, Out, ResumeMode, Sets, TensorBoard, finish
from headrace.training.recipe import Resume


def pretrain(
    data: Annotated[
        Path, typer.Option(help="A *.jsonl, *.txt, either with .gz, or a directory of them.")
    ],
    shape: Annotated[
        str,
        typer.Option(help="LAYERSxWIDTH; --set shape.heads=8 and the like change what follows."),
    ] = "6x384",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Take the vocabulary of this model; without it one is trained."),
    ] = None,
    out: Out = Path("pretrained"),
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Train a new model on the next tokens of texts."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import pretrain as recipes

    plan = recipe.with_sets(recipes.default(recipes.parse_shape(shape)), sets or [])
    events = recipes.train(
        plan, data=data, out=out, tokenizer=tokenizer, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the texts"), json=json)
