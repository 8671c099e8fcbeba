"""The native encoder beside the torch one, on every instruction set that runs here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import encoders
import native_isas
from headrace.model.encoder import Encoder
from headrace.model.encoder_checkpoint import load_encoder
from headrace.model.native_encoder import NativeEncoder, obstacle

LENGTHS = (5, 1, 16, 17, 31, 2, 64, 3, 17)

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "roberta": {"family": "xlm-roberta"},
    "wide heads": {"hidden_size": 80, "num_attention_heads": 1},
    "large eps": {"layer_norm_eps": 1e-2},
    "odd inner": {"intermediate_size": 37, "num_hidden_layers": 1},
}


def _encoder(directory: Path, **fields: Any) -> Encoder:
    return load_encoder(encoders.make(directory, **fields)).encoder


def _ids(encoder: Encoder, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, encoder.config.vocab_size, (sum(lengths),), generator=generator)


@native_isas.needs_native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", native_isas.isas())
def test_float32_is_the_torch_encoder(tmp_path: Path, isa: str, shape: str) -> None:
    encoder = _encoder(tmp_path / "m", **SHAPES[shape])
    stack = NativeEncoder(encoder, dtype="float32", pool=native_isas.pool(isa, 2))
    ids_T = _ids(encoder)
    with torch.no_grad():
        wanted = encoder.hidden(ids_T, LENGTHS)
    found = stack.hidden(ids_T, LENGTHS)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@native_isas.needs_native
@pytest.mark.parametrize("isa", native_isas.isas())
def test_bfloat16_rounds_operands_only(tmp_path: Path, isa: str) -> None:
    encoder = _encoder(tmp_path / "m")
    stack = NativeEncoder(encoder, dtype="bfloat16", pool=native_isas.pool(isa, 2))
    ids_T = _ids(encoder)
    with torch.no_grad():
        wanted = encoder.hidden(ids_T, LENGTHS)
    found = stack.hidden(ids_T, LENGTHS)
    assert torch.cosine_similarity(found, wanted).min() >= 0.999
    assert not torch.equal(found, wanted)


@native_isas.needs_native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("isa", native_isas.isas())
def test_a_document_alone_is_the_same_bits(tmp_path: Path, isa: str, dtype: str) -> None:
    encoder = _encoder(tmp_path / "m")
    together = NativeEncoder(encoder, dtype=dtype, pool=native_isas.pool(isa, 2))
    alone = NativeEncoder(encoder, dtype=dtype, pool=native_isas.pool(isa, 1))
    ids_T = _ids(encoder)
    rows = together.hidden(ids_T, LENGTHS).split(list(LENGTHS))
    for ids, found in zip(ids_T.split(list(LENGTHS)), rows, strict=True):
        assert torch.equal(found, alone.hidden(ids, [len(ids)]))


@native_isas.needs_native
@pytest.mark.parametrize("lengths", [(71,), (3, 0), ()])
def test_lengths_that_cannot_be(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    encoder = _encoder(tmp_path / "m", num_hidden_layers=1)
    stack = NativeEncoder(encoder, dtype="float32", pool=native_isas.pool(native_isas.RUNNABLE[0]))
    with pytest.raises(ValueError, match="shapes that do not fit"):
        stack.hidden(torch.zeros(sum(lengths), dtype=torch.int64), lengths)


def test_obstacles(tmp_path: Path) -> None:
    tanh = _encoder(tmp_path / "tanh", num_hidden_layers=1, hidden_act="gelu_new")
    odd = _encoder(tmp_path / "odd", num_hidden_layers=1, num_attention_heads=2)
    plain = _encoder(tmp_path / "m", num_hidden_layers=1)
    if native_isas.RUNNABLE:
        assert obstacle(plain, "float32") is None
        assert "gelu_new" in (obstacle(tanh, "float32") or "")
        assert "head_dim 24" in (obstacle(odd, "float32") or "")
        assert "float16" in (obstacle(plain, "float16") or "")
    else:
        assert "no native kernels" in (obstacle(plain, "float32") or "")
