"""`headrace train dpo`: tune a model on pairs of answers, against itself as the reference."""

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


def dpo(
    model: Model,
    data: PairData,
    out: Out = Path("tuned"),
    adapter: AdapterChoice = None,
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model on pairs of answers: DPO, IPO and their kin (--set loss.kind=ipo)."""
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import preference as recipes

    plan = recipe.with_sets(recipes.dpo(), with_adapter(sets, adapter))
    events = recipes.train(
        plan, model=model, data=data, out=out, resume=resume, tensorboard=tensorboard
    )
    finish(follow(events, waiting="reading the preferences"), json=json)
