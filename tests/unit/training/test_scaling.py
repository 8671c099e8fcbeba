"""Grids, what they refuse, the picture, the intervals."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from headrace.errors import ConfigError, DataError, UserError
from headrace.training.scaling import picture, sweep
from headrace.training.scaling.fit import fit
from headrace.training.scaling.law import Law, Run

CHINCHILLA = Law(E=1.69, A=406.4, a=0.34, B=410.7, b=0.28)


def runs_of(law: Law = CHINCHILLA) -> list[Run]:
    return [
        Run(parameters=n, tokens=d, loss=law.loss(n, d), name=f"{n:g}-{d:g}")
        for n in (1e6, 1e7, 1e8)
        for d in (1e8, 1e9, 1e10)
    ]


def test_published_constants_give_their_published_optimum():
    # Hoffmann et al. 2022, table A3, approach 3: 40.8 billion parameters for Gopher's budget.
    best = CHINCHILLA.optimum(5.76e23)
    assert 30e9 < best.parameters < 45e9
    assert CHINCHILLA.size_exponent == pytest.approx(0.452, abs=0.002)


def test_a_grid_is_every_shape_with_every_amount():
    cells = sweep.parse_grid(["2x64,3x96:250k,1M", "3x96:1M,0.5G"])
    assert [(cell.name, cell.tokens) for cell in cells] == [
        ("2x64-250k", 250_000),
        ("3x96-250k", 250_000),
        ("2x64-1M", 1_000_000),
        ("3x96-1M", 1_000_000),
        ("3x96-0.5G", 500_000_000),
    ]


@pytest.mark.parametrize("text", ["2x64", "2x64:", ":1M", "2x64:many", "2x64:0", "2x65:1M"])
def test_a_grid_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"2x6|--grid"):
        sweep.parse_grid([text])


@pytest.mark.parametrize("key", ["updates.steps=5", "shape.layers=2", "shape.width=64"])
def test_what_the_grid_decides_cannot_be_set(key: str):
    with pytest.raises(ConfigError, match="follows from --grid"):
        sweep.template([key])


def test_sizes_are_counted_as_the_decoder_has_them():
    from headrace.training.recipes import base

    for text in ("2x32", "3x96"):
        cell = sweep.parse_grid([f"{text}:1k"])[0]
        plan = sweep.template(["shape.vocab_tokens=300"])
        shape = sweep.shape_of(plan, cell)
        decoder = base.fresh(shape, seed=0, eos_id=0, pad_id=0)
        assert sweep.size_of(shape) == sum(param.numel() for param in decoder.parameters())


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (runs_of()[:4], "4 runs cannot fix"),
        ([Run(parameters=1e6, tokens=d, loss=2.0) for d in range(1, 7)], "1 sizes and 6"),
        ([*runs_of(), Run(parameters=1, tokens=1, loss=math.nan, name="x")], "run x: loss nan"),
    ],
)
def test_runs_that_cannot_be_fitted_are_refused(runs: list[Run], message: str):
    with pytest.raises(DataError, match=message):
        fit(runs)


def test_too_small_grids_are_refused_before_anything_is_trained(tmp_path):
    cells = sweep.parse_grid(["2x32:1k,2k"])
    with pytest.raises(UserError, match="the grid has 2 runs"):
        list(sweep.sweep(sweep.template([]), cells, data=tmp_path, out=tmp_path / "out"))


def test_intervals_hold_the_constants():
    found = fit(runs_of(), resamples=40)
    for name, interval in found.intervals.items():
        assert interval.low <= getattr(CHINCHILLA, name) * (1 + 1e-6)
        assert interval.high >= getattr(CHINCHILLA, name) * (1 - 1e-6)


def test_the_picture_is_well_formed_and_has_every_run():
    runs = runs_of()
    drawn = picture.draw(CHINCHILLA, runs, held_out=runs[-1], title="losses")
    root = ElementTree.fromstring(drawn)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(runs)
    assert sum(circle.get("fill") == "#fff" for circle in circles) == 1
