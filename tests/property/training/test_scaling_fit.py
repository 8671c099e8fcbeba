"""Planted laws are found again, with and without noise, whatever their constants."""

import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headrace.training.scaling.fit import fit
from headrace.training.scaling.law import Law, Run

CONSTANTS = ("E", "A", "a", "B", "b")


def laws() -> st.SearchStrategy[Law]:
    """Constants of published fits, and well around them."""
    return st.builds(
        Law,
        E=st.floats(0.8, 2.5),
        A=st.floats(50, 2000),
        a=st.floats(0.25, 0.5),
        B=st.floats(50, 2000),
        b=st.floats(0.25, 0.5),
    )


def grid(law: Law, *, noise: float = 0.0, seed: int = 0, side: int = 5) -> list[Run]:
    generator = np.random.default_rng(seed)
    return [
        Run(
            parameters=n,
            tokens=d,
            loss=law.loss(n, d) * math.exp(noise * generator.standard_normal()),
        )
        for n in np.geomspace(1e6, 1e10, side)
        for d in np.geomspace(2e7, 2e11, side)
    ]


def worst(found: Law, planted: Law) -> float:
    return max(abs(getattr(found, c) / getattr(planted, c) - 1) for c in CONSTANTS)


@settings(max_examples=8, deadline=None)
@given(laws())
def test_planted_constants_are_recovered(planted: Law):
    assert worst(fit(grid(planted), resamples=0).law, planted) < 1e-6


def test_chinchillas_constants_are_recovered_within_two_per_cent():
    # Losses that differ by 0.05 % from seed to seed.
    planted = Law(E=1.69, A=406.4, a=0.34, B=410.7, b=0.28)
    for seed in range(5):
        runs = grid(planted, noise=5e-4, seed=seed, side=7)
        assert worst(fit(runs, resamples=0).law, planted) < 0.02


@settings(max_examples=15, deadline=None)
@given(laws(), st.integers(0, 100))
def test_exponents_and_floor_survive_larger_noise_and_odd_runs(planted: Law, seed: int):
    # How a term falls that is 1 % of the smallest run's loss cannot be told through 0.1 % of noise.
    terms = planted.A / 1e6**planted.a, planted.B / 2e7**planted.b
    assume(min(terms) > 0.1 * planted.loss(1e6, 2e7))
    runs = grid(planted, noise=1e-3, seed=seed)
    runs[seed % len(runs)] = Run(
        parameters=runs[seed % len(runs)].parameters,
        tokens=runs[seed % len(runs)].tokens,
        loss=runs[seed % len(runs)].loss * 1.5,  # a run that diverged
    )
    found = fit(runs, resamples=0).law
    for constant in ("E", "a", "b"):
        assert abs(getattr(found, constant) / getattr(planted, constant) - 1) < 0.05


@settings(max_examples=8, deadline=None)
@given(laws(), st.integers(0, 100))
def test_five_runs_predict_a_sixth(planted: Law, seed: int):
    generator = np.random.default_rng(seed)
    runs = [
        Run(
            parameters=n,
            tokens=d,
            loss=planted.loss(n, d) * math.exp(2e-3 * generator.standard_normal()),
        )
        for n in (6e4, 2e5, 6e5)
        for d in (5e5, 2e6)
    ]
    found = fit(runs[:5], resamples=0).law
    last = runs[5]
    assert abs(found.loss(last.parameters, last.tokens) / last.loss - 1) < 0.03


@settings(max_examples=30, deadline=None)
@given(laws(), st.floats(1e12, 1e24))
def test_the_closed_form_optimum_is_the_minimum_on_its_budget(law: Law, flops: float):
    best = law.optimum(flops)
    assert math.isclose(6 * best.parameters * best.tokens, flops, rel_tol=1e-9)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.loss(best.parameters * factor, best.tokens / factor) > best.loss
