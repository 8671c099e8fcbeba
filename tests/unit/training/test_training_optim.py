"""Muon against torch's own, the split of parameters, and the schedule's shape."""

from itertools import pairwise

import pytest
import torch

import training_fixtures as fx
from headrace.errors import ConfigError
from headrace.training.optim import Muon, optimizers, orthogonalised
from headrace.training.schedule import warmup_stable_decay


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


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_optimizer_and_muon_only_layer_matrices(tied: bool) -> None:
    decoder = fx.decoder(tied=tied)
    muon, adamw = optimizers(decoder, matrix_lr=0.1, other_lr=0.2, weight_decay=0.0)
    names = {id(param): name for name, param in decoder.named_parameters()}
    matrices = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    others = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted(matrices + others) == sorted(names.values())
    assert all("proj" in name for name in matrices)
    assert "embed_tokens.weight" in others


def test_the_schedule_warms_up_stays_and_decays() -> None:
    factors = [
        warmup_stable_decay(step, steps=20, warmup_steps=4, decay_fraction=0.25)
        for step in range(20)
    ]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:15] == [1.0] * 11
    assert all(a > b > 0 for a, b in pairwise(factors[15:]))
    assert warmup_stable_decay(0, steps=1, warmup_steps=0, decay_fraction=0.0) == 1.0
    with pytest.raises(ConfigError, match="decay_fraction 2"):
        warmup_stable_decay(0, steps=1, warmup_steps=0, decay_fraction=2)
