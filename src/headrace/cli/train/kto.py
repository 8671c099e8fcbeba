"""`headrace train kto`: tune a model on answers that were judged good or bad one by one."""

from pathlib import Path

from headrace.cli.train.options import (
    AdapterChoice,
    AnswerData,
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


def kto(
    model: Model,
    data: AnswerData,
    out: Out = Path("tuned"),
    adapter: AdapterChoice = None,
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model on single answers that were judged good or bad."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import preference as recipes

    plan = recipe.with_sets(recipes.kto(), with_adapter(sets, adapter))
    events = recipes.train(
        plan, model=model, data=data, out=out, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the preferences"), json=json)
