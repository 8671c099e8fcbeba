"""Muon against torch's own, the split of parameters, and the schedule's shape."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

import training_fixtures as fx
from headrace.errors import ConfigError
from headrace.model.decoder import Decoder
from headrace.training.optim import Muon, optimizers, orthogonalised
from headrace.training.schedule import factor


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_muon_updates_as_torchs_does(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([ours], lr=0.05, weight_decay=0.1)
    oracle = torch.optim.Muon(
        [theirs], lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        oracle.step()
    # torch iterates in bfloat16, of 8 bits; the update itself is what is compared.
    difference = float((ours - theirs).detach().norm() / (theirs - start).detach().norm())
    assert difference < 0.02


def test_orthogonalising_evens_out_the_singular_values() -> None:
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def _names(decoder: Decoder, optimizer: torch.optim.Optimizer) -> list[str]:
    names = {id(param): name for name, param in decoder.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_optimizer_and_muon_only_layer_matrices(tied: bool) -> None:
    decoder = fx.decoder(tied=tied)
    muon, adamw = optimizers(decoder.named_parameters(), fx.updates())
    matrices, others = _names(decoder, muon), _names(decoder, adamw)
    assert sorted(matrices + others) == sorted(name for name, _ in decoder.named_parameters())
    assert all("proj" in name for name in matrices)
    assert "embed_tokens.weight" in others


def test_adamw_alone_takes_all_and_decays_matrices_only() -> None:
    decoder = fx.decoder()
    (adamw,) = optimizers(
        decoder.named_parameters(), fx.updates(optimizer="adamw", weight_decay=0.3)
    )
    assert len(_names(decoder, adamw)) == len(list(decoder.named_parameters()))
    for group in adamw.param_groups:
        assert group["weight_decay"] == (0.3 if group["params"][0].ndim == 2 else 0.0)


def test_what_is_frozen_is_left_alone() -> None:
    decoder = fx.decoder()
    decoder.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter requires a gradient"):
        optimizers(decoder.named_parameters(), fx.updates())
    decoder.norm.weight.requires_grad_(True)
    (adamw,) = optimizers(decoder.named_parameters(), fx.updates())
    assert _names(decoder, adamw) == ["norm.weight"]


def _factors(**changes: Any) -> list[float]:
    plan = fx.updates(**changes)
    return [factor(step, plan) for step in range(plan.steps)]


def test_the_schedule_warms_up_stays_and_decays() -> None:
    factors = _factors(steps=20, warmup_steps=4, decay_fraction=0.25)
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:15] == [1.0] * 11
    assert all(a > b > 0 for a, b in pairwise(factors[15:]))
    assert _factors(steps=1, warmup_steps=0, decay_fraction=0.0) == [1.0]
    with pytest.raises(ConfigError, match="decay_fraction 2"):
        _factors(decay_fraction=2)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_falling_schedules_match_torchs_formulas(schedule: str) -> None:
    factors = _factors(schedule=schedule, steps=30, warmup_steps=5, final_factor=0.1)
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    for step in range(5, 30):
        done = (step - 5) / 25
        fall = 1 - done if schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
        assert factors[step] == pytest.approx(0.1 + 0.9 * fall, abs=1e-12)
    assert _factors(schedule="constant", steps=9, warmup_steps=3)[2:] == [1.0] * 7
