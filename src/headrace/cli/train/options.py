"""The options that training methods share, so that each is worded once."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.training.recipe import Resume

Out = Annotated[
    Path, typer.Option(help="Where it is made: OUT/model, OUT/checkpoints, OUT/training_log.jsonl.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="A value of the recipe, such as updates.steps=100; repeatable."),
]
ResumeMode = Annotated[
    Resume,
    typer.Option(
        "--resume",
        help="auto = go on from the last checkpoint in OUT, or start where there is none; "
        "never = discard what is there; ask = refuse where there is one.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
