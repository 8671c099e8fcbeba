"""Nf4Linear: gradients of the matrix it stands for, and nothing kept of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import checkpoints
from headrace.errors import CheckpointError, UnsupportedModel, UserError
from headrace.model import adapters, checkpoint, nf4
from headrace.model.nf4_load import load_nf4
from headrace.model.quantized import quantize_decoder


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 70),
    block=st.sampled_from(nf4.BLOCKS),
    double=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_any_matrix_comes_back_within_half_a_step(
    rows: int, cols: int, block: int, double: bool, seed: int
) -> None:
    matrix = torch.randn((rows, cols), generator=torch.Generator().manual_seed(seed))
    stored = nf4.quantize(matrix, block=block, double=double)
    assert stored.nbytes == nf4.stored_bytes(rows, cols, block=block, double=double)
    back = nf4.dequantize(stored, torch.float32)
    assert back.shape == matrix.shape
    widest = max(b - a for a, b in zip(nf4.LEVELS, nf4.LEVELS[1:], strict=False))
    slack = 0.0 if not double else float(matrix.abs().max()) * 0.05
    assert float((back - matrix).abs().max()) <= widest / 2 * float(matrix.abs().max()) + slack
    if not double:  # what is stored already is stored again as it is
        again = nf4.quantize(back, block=block, double=False)
        assert torch.equal(nf4.dequantize(again, torch.float32), back)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn((130, 100), generator=torch.Generator().manual_seed(0))
    whole = nf4.quantize(matrix, block=32)
    values = nf4.dequantize(whole, torch.bfloat16)
    monkeypatch.setattr(nf4, "_CHUNK", 4096)
    cut = nf4.quantize(matrix, block=32)
    assert torch.equal(cut.packed, whole.packed)
    assert torch.equal(cut.scale_B, whole.scale_B)
    assert torch.equal(nf4.dequantize(whole, torch.bfloat16), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward_and_gradients_are_those_of_the_dequantized_matrix(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    bias = nn.Parameter(torch.randn(48).to(dtype))
    layer = nf4.Nf4Linear(nf4.quantize(torch.randn(48, 90)), dtype=dtype, bias=bias)
    x = torch.randn(7, 90).to(dtype).requires_grad_()
    y = layer(x)
    (grad_x, grad_bias) = torch.autograd.grad(y.square().sum(), (x, bias))
    expected = nn.functional.linear(x, layer.weight, bias)
    assert torch.equal(y, expected)
    for ours, theirs in zip(
        (grad_x, grad_bias), torch.autograd.grad(expected.square().sum(), (x, bias)), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 2e-2)


def test_nothing_of_the_matrix_is_kept_for_the_backward_pass() -> None:
    layer = nf4.Nf4Linear(nf4.quantize(torch.randn(64, 64)), dtype=torch.float32)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(3, 64, requires_grad=True))
    assert not kept


def test_loading_one_matrix_at_a_time_is_quantizing_all(tmp_path: Path) -> None:
    path = checkpoints.make(tmp_path / "base", "qwen2", max_shard_size="100KB")
    loaded = load_nf4(path, block=32, double=False, skip=["model.layers.1.mlp.up_proj"])
    decoder = checkpoint.load(path).decoder
    adapters.quantize_base(decoder, block=32, double=False, skip=["model.layers.1.mlp.up_proj"])
    expected = decoder.state_dict()
    found = loaded.decoder.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert loaded.fingerprint == checkpoint.load(path).fingerprint


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NF4 block 48 is not one of 32, 64"):
        nf4.quantize(torch.zeros(2, 2), block=48)
    with pytest.raises(CheckpointError, match="not finite"):
        nf4.quantize(torch.tensor([[1.0, float("nan")]]))
    path = checkpoints.make(tmp_path / "base", "llama")
    made = checkpoint.load(path)
    quantization = quantize_decoder(made.decoder, format="int8")
    checkpoint.save(
        made.decoder, replace(made.config, quantization=quantization), tmp_path / "int8"
    )
    with pytest.raises(UnsupportedModel, match="stored as int8"):
        load_nf4(tmp_path / "int8")
