"""`headrace train grpo`: tune a model by rewards of its own answers."""

from pathlib import Path

import typer

from headrace import app
from headrace.cli.train.options import (
    Json,
    Model,
    Out,
    Prompts,
    ResumeMode,
    Rewards,
    Sets,
    TensorBoard,
    finish,
)
from headrace.training.recipe import Resume


def grpo(
    model: Model,
    prompts: Prompts,
    reward: Rewards = None,
    out: Out = Path("tuned"),
    sets: Sets = None,
    resume: ResumeMode = Resume.ASK,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Tune a model by rewards of its own answers, each against its group's (GRPO)."""
    if not reward:
        raise typer.BadParameter("name at least one, such as --reward exact", param_hint="--reward")
    from headrace.cli.train.view import follow
    from headrace.training import recipe
    from headrace.training.recipes import policy as recipes

    events = recipes.train(
        recipe.with_sets(recipes.Grpo(), sets or []),
        model=model,
        prompts=prompts,
        rewards=reward,
        open_sampler=app.rollout_engine,
        out=out,
        resume=resume,
        tensorboard=tensorboard,
    )
    finish(follow(events, waiting="reading the prompts"), json=json)
