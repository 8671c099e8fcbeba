"""Precision, activation checkpointing and compilation: around the decoder, not in it."""

from collections.abc import Iterator

import pytest
import torch

import training_fixtures as fx
from headrace.data.pack import pack
from headrace.errors import ConfigError
from headrace.kernels import dispatch
from headrace.model.decoder import Decoder
from headrace.training.compute import place, wrap
from headrace.training.parallel import ALONE
from headrace.training.recipe import Compute
from headrace.training.task import NextToken


def _step(compute: Compute, model: Decoder | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    decoder = model or fx.decoder()
    wrap(decoder, compute)
    (batch,) = pack(fx.rows(8), max_tokens=999)
    loss = NextToken().loss(decoder, batch)
    loss.sum.backward()
    gradients = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
    return float(loss.sum.detach()), gradients


def _difference(some: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert list(some) == list(other)
    assert all(tensor.dtype == torch.float32 for tensor in some.values())
    return max(float((some[n] - other[n]).norm() / other[n].norm()) for n in other)


def test_recomputed_activations_change_no_bit() -> None:
    loss, gradients = _step(Compute())
    again, same = _step(Compute(checkpoint_activations=True))
    assert again == loss
    assert all(torch.equal(same[name], gradients[name]) for name in gradients)


def test_recomputing_keeps_less() -> None:
    """What autograd holds between the passes, counted in bytes."""

    def held(compute: Compute) -> int:
        decoder, sizes = fx.decoder(), dict[int, int]()
        wrap(decoder, compute)
        (batch,) = pack(fx.rows(40), max_tokens=9999)

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            NextToken().loss(decoder, batch)
        return sum(sizes.values())

    assert held(Compute(checkpoint_activations=True)) < 0.5 * held(Compute())


@pytest.mark.parametrize("recompute", [False, True])
def test_bfloat16_is_near_and_leaves_weights_and_gradients_float32(recompute: bool) -> None:
    loss, gradients = _step(Compute())
    narrow, near = _step(Compute(precision="bfloat16", checkpoint_activations=recompute))
    assert narrow != loss
    assert narrow == pytest.approx(loss, rel=5e-3)
    assert 1e-4 < _difference(near, gradients) < 0.05


@pytest.fixture
def _dispatch_as_it_was() -> Iterator[None]:
    before = dict(dispatch.BY_DEVICE)
    yield
    dispatch.BY_DEVICE.clear()
    dispatch.BY_DEVICE.update(before)


@pytest.mark.slow  # inductor calls a C++ compiler a dozen times
@pytest.mark.usefixtures("_dispatch_as_it_was")
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_compute_the_same_and_compile_once() -> None:
    loss, gradients = _step(Compute())
    model = fx.decoder()
    fused, same = _step(Compute(compile=True), model)
    assert fused == pytest.approx(loss, rel=1e-6)
    assert _difference(same, gradients) < 1e-5
    from torch._dynamo.utils import counters

    graphs = counters["stats"]["unique_graphs"]
    for rows in (3, 5, 9, 12):
        (batch,) = pack(fx.rows(rows, seed=rows), max_tokens=999)
        NextToken().loss(model, batch).sum.backward()
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        assert place(Compute(), ALONE).type == "cuda"
        return
    assert place(Compute(), ALONE).type == "cpu"
    with pytest.raises(ConfigError, match=r"compute\.device = cuda"):
        place(Compute(device="cuda"), ALONE)
