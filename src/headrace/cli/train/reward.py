"""`headrace train reward`: train a model that scores answers."""

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


def reward(
    model: Model,
    data: PairData,
    out: Out = Path("reward"),
    adapter: AdapterChoice = None,
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Train a model that scores conversations, from pairs of answers."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import preference as recipes

    plan = recipe.with_sets(recipes.reward(), with_adapter(sets, adapter))
    events = recipes.train(
        plan, model=model, data=data, out=out, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the preferences"), json=json, talks=False)
