"""The fit against scipy's L-BFGS over Chinchilla's grid of starts, on the same objective."""

import itertools
import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from headrace.training.scaling.fit import DELTA, fit
from headrace.training.scaling.law import Law, Run


def objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    e, log_a, log_b, a, b = theta
    parts = np.stack([np.full_like(x, e), log_a - a * x, log_b - b * y])
    size = np.abs(logsumexp(parts, axis=0) - z)
    return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


def test_no_start_of_the_papers_grid_ends_lower():
    # Eight of its starts, those near enough for scipy to end in seconds.
    planted = Law(E=1.69, A=406.4, a=0.34, B=410.7, b=0.28)
    generator = np.random.default_rng(5)
    runs = [
        Run(
            parameters=n,
            tokens=d,
            loss=planted.loss(n, d) * math.exp(3e-3 * generator.standard_normal()),
        )
        for n in np.geomspace(1e7, 1e10, 5)
        for d in np.geomspace(2e8, 2e11, 5)
    ]
    x, y, z = np.log([(r.parameters, r.tokens, r.loss) for r in runs]).T
    lowest = min(
        minimize(objective, start, args=(x, y, z), method="L-BFGS-B", options={"ftol": 1e-15}).fun
        for start in itertools.product((0.5,), (5, 10), (5, 10), (0.5,), (0.25, 0.5))
    )
    law = fit(runs, resamples=0).law
    ours = objective(
        np.array([math.log(law.E), math.log(law.A), math.log(law.B), law.a, law.b]), x, y, z
    )
    assert ours <= lowest * (1 + 1e-6)
