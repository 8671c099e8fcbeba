"""A rate becomes the moments at which requests are sent.

Gaps are gamma distributed with mean 1 / rate and shape `burstiness`, as in `vllm bench serve`: 1
is a Poisson process, less comes in bursts, more is steadier, infinity is a constant rate. As there,
the gaps are scaled so that the last request falls on count / rate, whatever the draw.
"""

import math

import numpy as np

from headrace.errors import InvalidParameter


def arrivals_s(*, count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the run's begin to each request; `rate` infinite = all at once.

    Raises: InvalidParameter
    """
    for name, value in (("rate", rate), ("burstiness", burstiness)):
        if not value > 0:
            raise InvalidParameter(
                f"`{name}` {value} is not above 0; infinity is `inf`", param=name
            )
    if math.isinf(rate) or count == 0:
        return [0.0] * count
    if math.isinf(burstiness):
        gaps = np.full(count, 1 / rate)
    else:
        gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), size=count)
    moments = np.cumsum(gaps)
    # Extremely bursty draws may all round to zero; then everything does come at once.
    scale = count / rate / moments[-1] if moments[-1] > 0 else 0.0
    return [float(moment) for moment in moments * scale]
