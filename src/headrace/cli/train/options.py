"""The options that training methods share, so that each is worded once."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.report import emit_json
from headrace.training.recipe import Resume

if TYPE_CHECKING:
    from headrace.cli.train.view import Ended

Model = Annotated[Path, typer.Option(help="Directory of the model to begin with.")]
PairData = Annotated[
    Path,
    typer.Option(
        help="JSON lines of `prompt`, `chosen` and `rejected` (text, or messages as in OpenAI's "
        "API), or a directory of such files."
    ),
]
AnswerData = Annotated[
    Path,
    typer.Option(
        help="JSON lines of `prompt`, `completion` and `label` (true = good), or of pairs, or a "
        "directory of such files."
    ),
]
Out = Annotated[
    Path, typer.Option(help="Where it is made: OUT/model, OUT/checkpoints, OUT/training_log.jsonl.")
]


class AdapterMethod(StrEnum):
    """What is trained beside weights that stay as they are."""

    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"
    QLORA = "qlora"


AdapterChoice = Annotated[
    AdapterMethod | None,
    typer.Option(
        "--adapter",
        help="Train an adapter instead of the whole model, into OUT/adapter and, merged, "
        "OUT/model; qlora keeps the base in 4 bits. --set adapter.rank=8, adapter.targets=q_proj "
        "and the like say more.",
    ),
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
Prompts = Annotated[
    Path,
    typer.Option(
        help="JSON lines of `prompt` (text) or `messages`; what else is in a line, such as "
        "`answer`, is for the rewards."
    ),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        help="exact, numeric, format:REGEX or module:function; `0.2*` before it is a factor. "
        "Repeatable: the reward of an answer is their sum.",
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", help="Write event files to OUT/tensorboard as well."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def with_adapter(sets: list[str] | None, adapter: AdapterMethod | None) -> list[str]:
    """The settings of `--adapter`, before those of `--set`."""
    return [*([f"adapter.method={adapter.value}"] if adapter else []), *(sets or [])]


def finish(ended: "Ended", *, json: bool, talks: bool = True) -> None:
    """Print what a run made, the last thing that a method does; `talks` = it is a chat model."""
    published = ended.published
    assert published is not None
    if json:
        held_out = {stage: scored.scores for stage, scored in ended.scores.items()}
        emit_json({"published": published, "held_out": held_out})
    else:
        typer.echo(f"{published.path}: {published.weight_bytes:,} bytes of weights")
        if talks:
            typer.echo(f"talk to it: headrace chat --model {published.path}")
