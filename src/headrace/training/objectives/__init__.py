"""Hidden states and a batch -> a loss as (sum, weight): pure functions, one file a family."""

from headrace.training.objectives.cross_entropy import next_token, sft
from headrace.training.objectives.loss import Loss

__all__ = ["Loss", "next_token", "sft"]
