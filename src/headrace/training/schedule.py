"""(step, steps) -> the learning rate's factor: linear warm-up, then one of four shapes.

`wsd` stays at 1 and decays linearly at the end (warm-up, stable, decay: arXiv 2404.06395); `cosine`
falls along half a cosine (arXiv 1608.03983); `linear` falls evenly; `constant` stays.
"""

import math

from headrace.errors import ConfigError
from headrace.training.recipe import Updates


def factor(step: int, updates: Updates) -> float:
    """Factor in (0, 1] for the update made at `step`, counted from 0.

    Linear from 1/warmup_steps to 1, then the shape down to `final_factor`. Where that is 0 the
    shapes end one step beyond the last, so that every update still moves.

    Raises:
        ConfigError: Numbers that make no schedule.
    """
    steps, warmup, final = updates.steps, updates.warmup_steps, updates.final_factor
    if steps < 1 or warmup < 0 or not 0 <= updates.decay_fraction <= 1 or not 0 <= final <= 1:
        raise ConfigError(
            f"no schedule with steps {steps}, warmup_steps {warmup}, decay_fraction "
            f"{updates.decay_fraction}, final_factor {final}; use steps >= 1, warmup_steps >= 0, "
            "fractions from 0 to 1"
        )
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return min(warm, final + (1 - final) * _fall(step, updates))


def _fall(step: int, updates: Updates) -> float:
    """From 1 towards 0, which would be reached at step `steps`."""
    steps = updates.steps
    match updates.schedule:
        case "constant":
            return 1.0
        case "wsd":
            decay_steps = max(1, round(steps * updates.decay_fraction))
            return min(1.0, (steps - step) / (decay_steps + 1)) if updates.decay_fraction else 1.0
        case "linear" | "cosine":
            first = min(updates.warmup_steps, steps - 1)
            done = max(0.0, (step - first) / (steps - first))
            return 1 - done if updates.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
