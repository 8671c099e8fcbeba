"""(step, steps) -> the learning rate's factor: warm up, stay, decay (WSD, arXiv 2404.06395)."""

from headrace.errors import ConfigError


def warmup_stable_decay(
    step: int, *, steps: int, warmup_steps: int, decay_fraction: float
) -> float:
    """Factor in (0, 1] for the update made at `step`, counted from 0.

    Linear from 1/warmup_steps to 1, then 1, then linear towards 0 over the last `decay_fraction`
    of the steps; the last update still moves.

    Raises:
        ConfigError: Numbers that make no schedule.
    """
    if not 0 <= decay_fraction <= 1 or warmup_steps < 0 or steps < 1:
        raise ConfigError(
            f"no schedule with steps {steps}, warmup_steps {warmup_steps}, "
            f"decay_fraction {decay_fraction}; use steps >= 1, warmup_steps >= 0, a fraction of 1"
        )
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay_steps = max(1, round(steps * decay_fraction))
    cool = min(1.0, (steps - step) / (decay_steps + 1)) if decay_fraction else 1.0
    return min(warm, cool)
