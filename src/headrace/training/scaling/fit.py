"""Runs -> the law that explains them, and how sure that is.

The objective is Chinchilla's third approach (arXiv 2203.15556, appendix D.10): the sum of Huber
losses, delta 1e-3, of log L(N, D) - log L. It is minimised from a grid of exponents, of each of
which the best E, A and B are a linear problem, by Levenberg-Marquardt steps on all starts at once.
Deviation: the paper runs L-BFGS from a grid of all five; the same minimum is found, to more digits.
(Besiroglu et al. 2024, arXiv 2404.10102, showed that the paper's own optimizer had stopped early.)

Intervals are percentiles of refits to runs drawn with replacement (the bootstrap of 2404.10102).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DataError
from headrace.training.scaling.law import Law, Run

Floats = NDArray[np.float64]

DELTA = 1e-3
"""Residuals of log loss beyond it count linearly: one odd run does not bend the law."""
LEAST_RUNS = 5
"""As many as there are constants; fewer cannot fix them."""
_EXPONENTS = np.geomspace(0.06, 1.5, 7)
_LOWEST, _HIGHEST = math.log(0.01), math.log(5.0)
_STEPS = 400
_KEPT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where 90 % of the bootstrap lies."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A law and how well it is known."""

    law: Law
    runs: int
    residual: float
    """Root mean square of log predicted - log measured loss: 0.01 is one per cent."""
    intervals: Mapping[str, Interval]
    """By the constant's name; empty where there are too few runs to leave any out."""


def fit(runs: Sequence[Run], *, resamples: int = 200, seed: int = 0) -> Fit:
    """Fit the law.

    Args:
        runs: At least `LEAST_RUNS`, of at least two sizes and two amounts of data.
        resamples: Refits for the intervals; 0 = none.
        seed: Of the resampling.

    Raises:
        DataError: Too few runs, or of one size or amount of data alone, or numbers out of range.
    """
    _check(runs)
    x, y, z = _logs(runs)
    best = _minimum(x, y, z)
    law = _law(best, x, y)
    errors = [math.log(law.loss(run.parameters, run.tokens) / run.loss) for run in runs]
    return Fit(
        law=law,
        runs=len(runs),
        residual=math.sqrt(sum(error * error for error in errors) / len(errors)),
        intervals=_intervals(x, y, z, best, resamples=resamples, seed=seed),
    )


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        for name in ("parameters", "tokens", "loss"):
            value = getattr(run, name)
            if not (math.isfinite(value) and value > 0):
                raise DataError(f"run {run.name or run}: {name} {value} is not a positive number")
    sizes, amounts = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) < LEAST_RUNS:
        raise DataError(
            f"{len(runs)} runs cannot fix the five constants of a scaling law; give at least "
            f"{LEAST_RUNS}"
        )
    if len(sizes) < 2 or len(amounts) < 2:
        raise DataError(
            f"the runs have {len(sizes)} sizes and {len(amounts)} amounts of tokens; the law needs "
            "at least two of each to tell them apart"
        )


def _logs(runs: Sequence[Run]) -> tuple[Floats, Floats, Floats]:
    table = np.array([(run.parameters, run.tokens, run.loss) for run in runs], dtype=np.float64)
    x, y, z = np.log(table).T
    return x, y, z


def _law(theta: Floats, x: Floats, y: Floats) -> Law:
    e, log_a, log_b, a, b = (float(value) for value in theta)
    a, b = math.exp(a), math.exp(b)
    return Law(
        E=math.exp(e),
        A=math.exp(log_a + a * float(x.mean())),
        a=a,
        B=math.exp(log_b + b * float(y.mean())),
        b=b,
    )


def _intervals(
    x: Floats, y: Floats, z: Floats, best: Floats, *, resamples: int, seed: int
) -> dict[str, Interval]:
    count = len(z)
    if count <= LEAST_RUNS or not resamples:
        return {}
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    # A sample of fewer distinct runs than constants says nothing.
    weights = drawn[(drawn > 0).sum(1) >= LEAST_RUNS].astype(np.float64)
    if not len(weights):
        return {}
    starts = np.broadcast_to(best, (len(weights), 5))
    fitted = _descend(starts, x, y, z, weights, DELTA, steps=_STEPS)[0]
    laws = [_law(theta, x, y) for theta in fitted]
    return {
        name: Interval(
            low=float(np.percentile([getattr(law, name) for law in laws], 5)),
            high=float(np.percentile([getattr(law, name) for law in laws], 95)),
        )
        for name in ("E", "A", "a", "B", "b")
    }


def _minimum(x: Floats, y: Floats, z: Floats) -> Floats:
    """The best of all starts: least squares and the Huber loss from each, then to the end from the
    likeliest. Squares alone let one odd run pull every start into the valley where E is 0."""
    starts = _starts(x, y, z)
    once = np.ones((len(starts), len(z)))
    tried = [
        _descend(starts, x, y, z, once, delta, steps=_STEPS // 4)[0] for delta in (math.inf, DELTA)
    ]
    found = np.concatenate([*tried, starts])
    losses = _huber(_model(found, *_centred(x, y), z)[0], np.ones((len(found), len(z))), DELTA)
    likeliest = found[np.argsort(losses, kind="stable")[:_KEPT]]
    once = np.ones((len(likeliest), len(z)))
    fitted, losses = _descend(likeliest, x, y, z, once, DELTA, steps=_STEPS)
    return fitted[int(np.argmin(losses))]


def _starts(x: Floats, y: Floats, z: Floats) -> Floats:
    """For each pair of exponents the constants that least squares gives, none below a thousandth
    of the mean loss."""
    loss = np.exp(z)
    found: list[list[float]] = []
    for a in _EXPONENTS:
        for b in _EXPONENTS:
            columns = np.stack(
                [np.ones_like(x), np.exp(-a * (x - x.mean())), np.exp(-b * (y - y.mean()))], 1
            )
            solved = np.linalg.lstsq(columns / loss[:, None], np.ones_like(z), rcond=None)[0]
            E, A, B = np.maximum(solved, 1e-3 * loss.mean())
            found.append([math.log(E), math.log(A), math.log(B), math.log(a), math.log(b)])
    return np.array(found)


def _descend(
    theta_S5: Floats,
    x: Floats,
    y: Floats,
    z: Floats,
    weights_SR: Floats,
    delta: float,
    *,
    steps: int,
) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt with Huber's weights, every start by itself; S starts, R runs."""
    x, y = _centred(x, y)
    damping_S = np.full(len(theta_S5), 1e-2)
    residual_SR, jacobian_SR5 = _model(theta_S5, x, y, z)
    loss_S = _huber(residual_SR, weights_SR, delta)
    for _ in range(steps):
        size_SR = np.abs(residual_SR)
        pull_SR = weights_SR * np.where(size_SR > delta, delta / np.maximum(size_SR, 1e-300), 1.0)
        weighted_S5R = (jacobian_SR5 * pull_SR[..., None]).transpose(0, 2, 1)
        gradient_S5 = (weighted_S5R @ residual_SR[..., None])[..., 0]
        curvature = weighted_S5R @ jacobian_SR5
        scale_S5 = np.diagonal(curvature, axis1=1, axis2=2)
        ridge = damping_S[:, None] * scale_S5 + 1e-15 * scale_S5.sum(1, keepdims=True) + 1e-300
        system = curvature + ridge[:, :, None] * np.eye(5)
        step_S5 = -np.linalg.solve(system, gradient_S5[..., None])[..., 0]
        step_S5 *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step_S5).max(1, keepdims=True), 1e-300))
        tried = theta_S5 + step_S5
        tried[:, 3:] = np.clip(tried[:, 3:], _LOWEST, _HIGHEST)
        tried[:, :3] = np.clip(tried[:, :3], -50.0, 50.0)
        residual, jacobian = _model(tried, x, y, z)
        loss = _huber(residual, weights_SR, delta)
        better = loss < loss_S
        gain = np.max(np.where(better, (loss_S - loss) / np.maximum(loss_S, 1e-300), 0.0))
        theta_S5 = np.where(better[:, None], tried, theta_S5)
        residual_SR = np.where(better[:, None], residual, residual_SR)
        jacobian_SR5 = np.where(better[:, None, None], jacobian, jacobian_SR5)
        loss_S = np.where(better, loss, loss_S)
        damping_S = np.clip(np.where(better, damping_S * 0.3, damping_S * 5.0), 1e-15, 1e9)
        if gain < 1e-12 and damping_S.min() > 1e3:
            break
    return theta_S5, loss_S


def _centred(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """So that a constant and its exponent can be moved apart."""
    return x - x.mean(), y - y.mean()


def _model(theta_S5: Floats, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Residuals of the log loss and their derivatives by log E, log A, log B, log a, log b."""
    a_S1, b_S1 = np.exp(theta_S5[:, 3:4]), np.exp(theta_S5[:, 4:5])
    terms = np.stack(
        [
            np.broadcast_to(theta_S5[:, 0:1], (len(theta_S5), len(z))),
            theta_S5[:, 1:2] - a_S1 * x,
            theta_S5[:, 2:3] - b_S1 * y,
        ],
        axis=-1,
    )
    highest = terms.max(-1, keepdims=True)
    shares = np.exp(terms - highest)
    total = shares.sum(-1, keepdims=True)
    residual_SR = (highest + np.log(total))[..., 0] - z
    shares = shares / total
    jacobian = np.concatenate(
        [
            shares,
            (-shares[..., 1] * a_S1 * x)[..., None],
            (-shares[..., 2] * b_S1 * y)[..., None],
        ],
        axis=-1,
    )
    return residual_SR, jacobian


def _huber(residual_SR: Floats, weights_SR: Floats, delta: float) -> Floats:
    size = np.abs(residual_SR)
    if math.isinf(delta):
        return (weights_SR * 0.5 * size**2).sum(1)
    return (weights_SR * np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))).sum(
        1
    )
