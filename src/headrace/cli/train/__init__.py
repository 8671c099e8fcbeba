"""`headrace train METHOD`: one file a method; each shows how its run goes and leaves a checkpoint.

Nothing here or in the methods' modules imports torch before a method is called.
"""

import typer

from headrace.cli.train.answers import answers
from headrace.cli.train.distill import distill
from headrace.cli.train.dpo import dpo
from headrace.cli.train.grpo import grpo
from headrace.cli.train.kto import kto
from headrace.cli.train.orpo import orpo
from headrace.cli.train.ppo import ppo
from headrace.cli.train.pretrain import pretrain
from headrace.cli.train.reward import reward
from headrace.cli.train.sft import sft
from headrace.cli.train.sprout import sprout
from headrace.cli.train.sweep import sweep

train = typer.Typer(no_args_is_help=True, add_completion=False, help="Train a model.")


@train.callback()
def _methods() -> None:
    """Train a model."""


for _method in (
    pretrain, sft, dpo, orpo, kto, reward, grpo, ppo, distill, answers, sprout, sweep,
):  # fmt: skip
    train.command()(_method)
