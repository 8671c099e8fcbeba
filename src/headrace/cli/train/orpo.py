"""`headrace train orpo`: tune a model on preferred and rejected answers, without a reference."""

from pathlib import Path

from headrace.cli.train.options import (
    AdapterChoice,
    Json,
    Model,
    Out,
    PairData,
    ResumeMode,
    Sets,
    TensorBoard,
    finish,
    with_adapter,
)
from headrace.training.recipe import Resume


def orpo(
    model: Model,
    data: PairData,
    out: Out = Path("tuned"),
    adapter: AdapterChoice = None,
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model on pairs of answers without a reference: cross entropy and odds."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import preference as recipes

    plan = recipe.with_sets(recipes.orpo(), with_adapter(sets, adapter))
    events = recipes.train(
        plan, model=model, data=data, out=out, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the preferences"), json=json)
