"""Quantized modules compute what their formats say, and directories of them load or are refused."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import checkpoints
from headrace.errors import CheckpointError, UnsupportedModel, UserError
from headrace.kernels import tiles
from headrace.model import checkpoint
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.model.quantization import Keep
from headrace.model.quantized import (
    Fp8Linear,
    QuantizedEmbedding,
    QuantizedLinear,
    quantize_decoder,
    rounded,
)

IDS = torch.arange(40) * 5 % 211
FORMATS = ("int8", "int4", "fp8")


@torch.no_grad()
def logits(decoder: Decoder) -> Tensor:
    pos, one = torch.arange(len(IDS)), torch.zeros(len(IDS), dtype=torch.int64)
    return decoder.logits(decoder.hidden(IDS, pos, Packed(one)))


def off(one: Tensor, other: Tensor) -> float:
    return float(((one - other).norm() / other.norm()).detach())


def make(path: Path, format: str, *, family: str = "qwen3", tied: bool = True) -> Path:
    """A quantized directory in bfloat16 beside its full-precision one, `path`-full."""
    full = checkpoints.make(
        path.with_name(f"{path.name}-full"),
        family,
        tie_word_embeddings=tied,
        dtype=torch.bfloat16,
    )
    loaded = checkpoint.load(full, dtype="float32")
    made = quantize_decoder(loaded.decoder, format=format, keep=[Keep.parse("layers.1.mlp")])
    checkpoint.save(
        loaded.decoder, replace(loaded.config, quantization=made), path, dtype="bfloat16"
    )
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("quantized") / "m", "int4")


@pytest.fixture
def copy(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def edit(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file({k: v.clone() for k, v in tensors.items()}, directory / "model.safetensors")


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((directory / "config.json").read_text())
    change(value["quantization_config"])
    (directory / "config.json").write_text(json.dumps(value))


def refusal(directory: Path, kind: type[CheckpointError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        checkpoint.load(directory)
    return caught.value.message


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "cols"), [(64, 96), (13, 70), (1, 32)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_the_product_of_what_was_rounded(
    format: str, rows: int, cols: int, bias: bool
) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(cols, rows, bias=bias)
    made = rounded(linear, format, 32)
    x_TI = torch.randn(5, cols)
    weight_OI = tiles.dequantize(*tiles.quantize(linear.weight.detach(), format, 32), 32)
    expected = functional.linear(tiles.round_activations(x_TI, 32), weight_OI, linear.bias)
    assert torch.equal(made(x_TI), expected)
    assert off(made(x_TI), linear(x_TI)) < (0.02 if format == "int8" else 0.2)
    half = made.bfloat16()(x_TI.bfloat16())
    assert half.dtype == torch.bfloat16
    assert off(half.float(), expected) < 0.02


def test_fp8_is_exact_in_bfloat16_and_near() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(70, 13, bias=False)
    with torch.no_grad():
        linear.weight[3] = 0
        linear.weight[4] *= 1e4
        linear.weight[5] *= 1e-6
    made = rounded(linear, "fp8", 0)
    assert isinstance(made, Fp8Linear)
    exact_OI = made.dense(torch.float32)
    assert torch.equal(made.dense(torch.bfloat16).float(), exact_OI)
    assert torch.equal(made.weight_scale.log2(), made.weight_scale.log2().round())
    top_O1 = linear.weight.abs().amax(1, keepdim=True)
    assert ((exact_OI - linear.weight).abs() <= top_O1 / 16).all()  # half a step of 3 bits
    assert off(exact_OI, linear.weight) < 0.04
    assert torch.equal(made.as_linear(torch.float32)(torch.eye(70)).T, exact_OI)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_directory_computes_what_was_saved(
    tmp_path: Path, format: str, family: str, tied: bool
) -> None:
    directory = make(tmp_path / "m", format, family=family, tied=tied)
    full = checkpoint.load(tmp_path / "m-full", dtype="float32").decoder
    exact = logits(full)
    quantize_decoder(full, format=format, keep=[Keep.parse("layers.1.mlp")])
    loaded = checkpoint.load(directory, dtype="float32")
    assert torch.equal(logits(loaded.decoder), logits(full))
    assert 0 < off(logits(full), exact) < {"int8": 0.05, "int4": 0.6, "fp8": 0.15}[format]
    assert loaded.config.quantization is not None
    assert loaded.config.quantization.format == format
    served = checkpoint.load(directory)
    assert served.dtype == torch.bfloat16
    assert off(logits(served.decoder), logits(full)) < 0.15


def test_tied_head_holds_the_one_table(whole: Path) -> None:
    tensors = load_file(whole / "model.safetensors")
    assert not any("embed_tokens" in name for name in tensors)
    assert tensors["lm_head.packed"].dtype == torch.uint8
    decoder = checkpoint.load(whole, dtype="float32").decoder
    table = decoder.embed_tokens
    assert isinstance(table, QuantizedEmbedding)
    assert table.table is decoder.lm_head
    assert torch.equal(table(IDS), table.table.dense(torch.float32)[IDS])
    assert list(decoder.state_dict()).count("lm_head.packed") == 1


def test_kept_matrices_are_plain(whole: Path) -> None:
    decoder = checkpoint.load(whole).decoder
    kinds = {name: type(module) for name, module in decoder.named_modules()}
    assert kinds["layers.0.mlp.up_proj"] is QuantizedLinear
    assert issubclass(kinds["layers.1.mlp.up_proj"], nn.Linear)


def test_fp8_on_a_cpu_is_plain_linears(tmp_path: Path) -> None:
    decoder = checkpoint.load(make(tmp_path / "m", "fp8")).decoder
    assert not any(isinstance(module, Fp8Linear) for module in decoder.modules())
    assert decoder.lm_head is None
    assert isinstance(decoder.embed_tokens, nn.Embedding)


def test_tiles_are_mapped_not_copied(whole: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    loaded = checkpoint.load(whole)
    assert str(whole / "model.safetensors") in maps.read_text()
    assert isinstance(loaded.decoder.lm_head, QuantizedLinear)


def test_sharded(tmp_path: Path, whole: Path) -> None:
    loaded = checkpoint.load(whole)
    checkpoint.save(loaded.decoder, loaded.config, tmp_path / "s", shard_bytes=20_000)
    assert len(list((tmp_path / "s").glob("*.safetensors"))) > 2
    assert torch.equal(logits(checkpoint.load(tmp_path / "s").decoder), logits(loaded.decoder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q: q.update(layout=7), "layout 7 is not supported"),
        (lambda q: q.update(format="int5"), "format 'int5' is not supported"),
        (lambda q: q.update(group=16), "group 16 is not supported"),
    ],
)
def test_unknown_versions(
    copy: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit_config(copy, change)
    assert says in refusal(copy, UnsupportedModel)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q: q.update(group=64), "has shape"),
        (lambda q: q.update(format="int8"), "has shape"),
        (lambda q: q.update(format="fp8", group=0), "lacks"),
        (lambda q: q["kept"].update(lm_head="bf16"), "lacks model.embed_tokens.weight"),
        (lambda q: q["kept"].pop("model.layers.1.mlp.up_proj"), "lacks model.layers.1.mlp.up_proj"),
        (lambda q: q["kept"].update({"model.layers.9.mlp.up_proj": "bf16"}), "the model has not"),
    ],
)
def test_a_config_that_its_tensors_contradict(
    copy: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit_config(copy, change)
    assert says in refusal(copy)


def test_tensors_of_another_size_or_type(copy: Path) -> None:
    name = "model.layers.0.mlp.up_proj.packed"
    edit(copy, lambda t: t.update({name: t[name][:-1]}))
    assert f"{name} has shape" in refusal(copy)
    edit(copy, lambda t: t.update({name: torch.zeros(len(t[name]) + 1, dtype=torch.bfloat16)}))
    assert f"{name} is stored as BF16 where config.json calls for U8" in refusal(copy)


def test_bytes_where_numbers_belong(copy: Path) -> None:
    edit(copy, lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.uint8)}))
    assert "model.norm.weight is stored as U8" in refusal(copy)


def test_bytes_in_a_checkpoint_that_is_not_quantized(tmp_path: Path) -> None:
    directory = checkpoints.make(tmp_path / "m", "llama")
    edit(directory, lambda t: t.update({"model.norm.weight": torch.ones(48, dtype=torch.uint8)}))
    assert "is stored as U8 where config.json calls for" in refusal(directory)


def test_truncated(copy: Path) -> None:
    path = copy / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    assert "where its header needs" in refusal(copy)


def test_fingerprint_believes_the_sums(copy: Path) -> None:
    first = checkpoint.load(copy).fingerprint
    sums = copy / "SHA256SUMS"
    said = sums.read_text()
    assert said.endswith("  model.safetensors\n")
    sums.unlink()
    assert checkpoint.load(copy).fingerprint == first  # hashed in full: the same
    sums.write_text("0" * 64 + said[64:])
    assert checkpoint.load(copy).fingerprint not in (first, "")
    sums.write_text(said.replace("model.s", "other.s"))
    assert "lacks model.safetensors" in refusal(copy)
    sums.write_text("nonsense\n")
    assert "SHA256SUMS:1 is not a line of sha256sum" in refusal(copy)


def test_save_refuses_another_description(tmp_path: Path, whole: Path) -> None:
    loaded = checkpoint.load(whole)
    with pytest.raises(CheckpointError, match="is held as int4 but described as bf16"):
        checkpoint.save(loaded.decoder, replace(loaded.config, quantization=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_quantizing_in_place_refuses_what_it_cannot(tmp_path: Path) -> None:
    decoder = checkpoint.load(checkpoints.make(tmp_path / "m", "llama")).decoder
    before = logits(decoder)
    with pytest.raises(UserError, match="format 'int2' is not one of int8, int4, fp8"):
        quantize_decoder(decoder, format="int2")
    with pytest.raises(UserError, match="group 16 is not one of 32, 64, 128"):
        quantize_decoder(decoder, format="int8", group=16)
    with pytest.raises(UserError, match="beside fp8 a matrix can be kept in bf16"):
        quantize_decoder(decoder, format="fp8", keep=[Keep.parse("lm_head=int8")])
    with pytest.raises(UserError, match=r"q_proj would be bf16 and \S+k_proj int4, but"):
        quantize_decoder(decoder, format="int4", keep=[Keep.parse("layers.1.self_attn.q_proj")])
    assert torch.equal(logits(decoder), before)
