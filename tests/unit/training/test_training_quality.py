"""Quality of one version against another: against sums written out, and where nothing changed."""

import math

import pytest
import torch

from headrace.data.pack import pack
from headrace.errors import DataError
from headrace.model.quantized import quantize_decoder
from headrace.training import quality
from headrace.training.evaluate import HeldOut, score
from headrace.training.task import hidden as forward
from training_fixtures import decoder, rows

BATCHES = pack(rows(30, seed=9), max_tokens=100)


def test_nothing_changed() -> None:
    model = decoder()
    found = quality.compare(quality.baseline(model, BATCHES), model)
    assert found.loss_increase == 0
    assert found.kl_mean == found.kl_p99 == 0
    assert found.same_choice == 1
    plain = score(model, HeldOut(batches=BATCHES, target_bytes=1))
    assert found.tokens == plain.tokens
    assert found.perplexity_before == pytest.approx(plain.perplexity, rel=1e-5)


@torch.no_grad()
def test_against_sums_written_out() -> None:
    model = decoder()
    before = quality.baseline(model, BATCHES)
    first = torch.cat([model.logits(forward(model, b)).double().log_softmax(-1) for b in BATCHES])
    quantize_decoder(model, format="int4")
    found = quality.compare(before, model)
    second = torch.cat([model.logits(forward(model, b)).double().log_softmax(-1) for b in BATCHES])
    targets = torch.cat([torch.from_numpy(b.targets_T) for b in BATCHES])
    kl = torch.nn.functional.kl_div(second, first, reduction="none", log_target=True).sum(-1)
    at = torch.arange(len(targets))
    assert found.tokens == len(targets)
    assert found.loss_before == pytest.approx(-float(first[at, targets].mean()), rel=1e-5)
    assert found.loss_after == pytest.approx(-float(second[at, targets].mean()), rel=1e-5)
    assert found.kl_mean == pytest.approx(float(kl.mean()), rel=1e-3)
    assert found.kl_p99 == pytest.approx(float(kl.quantile(0.99, interpolation="higher")), rel=1e-2)
    assert found.same_choice == pytest.approx(
        float((first.argmax(-1) == second.argmax(-1)).double().mean())
    )
    assert found.perplexity_after == pytest.approx(math.exp(found.loss_after))
    assert found.kl_mean > 0


def test_nothing_held_out() -> None:
    with pytest.raises(DataError, match="nothing was held out"):
        quality.baseline(decoder(), [])
