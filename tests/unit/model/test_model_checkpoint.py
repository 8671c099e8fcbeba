"""Every way a checkpoint directory can be wrong is an error that names the key or the file."""

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
from torch import Tensor

import checkpoints
from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model import checkpoint
from headrace.model.files import peek, read_header

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make(tmp_path_factory.mktemp("whole") / "m", "llama")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("sharded") / "m"
    return checkpoints.make(where, "llama", max_shard_size="60KB")


@pytest.fixture
def copy(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def shards(tmp_path: Path, sharded: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "shards"))


def refusal(directory: Path, kind: type[CheckpointError] = CheckpointError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        checkpoint.load(directory, **options)
    return caught.value.message


def edit(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file({k: v.clone() for k, v in tensors.items()}, directory / WEIGHTS)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_missing_key(copy: Path) -> None:
    edit(copy, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    assert "lacks model.layers.1.mlp.up_proj.weight" in refusal(copy)


def test_many_missing_keys_are_counted(copy: Path) -> None:
    edit_json(copy / "config.json", lambda c: c.update(num_hidden_layers=3))
    assert "and 6 more" in refusal(copy)


def test_unexpected_key(copy: Path) -> None:
    edit(copy, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}))
    assert "holds model.layers.0.self_attn.q_proj.bias" in refusal(copy)


def test_wrong_shape(copy: Path) -> None:
    edit(copy, lambda t: t.update({"model.norm.weight": torch.zeros(47)}))
    message = refusal(copy)
    assert "model.norm.weight" in message
    assert "[47]" in message
    assert "[48]" in message


def test_recomputable_buffers_of_old_files_are_accepted(copy: Path) -> None:
    edit(copy, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    checkpoint.load(copy)


def test_tied_head_may_be_repeated_but_not_contradicted(copy: Path) -> None:
    edit_json(copy / "config.json", lambda c: c.update(tie_word_embeddings=True))
    assert "lm_head.weight differs" in refusal(copy)
    edit(copy, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert checkpoint.load(copy).decoder.lm_head is None


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_truncated(copy: Path, kept: int) -> None:
    path = copy / WEIGHTS
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    message = refusal(copy)
    assert str(path) in message
    assert "download it again" in message


def test_trailing_bytes(copy: Path) -> None:
    with (copy / WEIGHTS).open("ab") as stream:
        stream.write(b"x")
    assert "where its header needs" in refusal(copy)


@pytest.mark.parametrize("seed", range(20))
def test_corrupt_header_never_escapes_as_another_error(copy: Path, seed: int) -> None:
    path = copy / WEIGHTS
    raw = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randint(0, 800, (12,), generator=generator).tolist():
        raw[place] = (raw[place] + 17) % 256
    path.write_bytes(raw)
    refusal(copy)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_hostile_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="damaged header"):
        read_header(path)


def test_quantized_storage(copy: Path) -> None:
    edit(copy, lambda t: t.update({"model.norm.weight": torch.zeros(48, dtype=torch.int8)}))
    assert "stored as I8" in refusal(copy, UnsupportedModel)


def test_no_weights(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    assert "neither model.safetensors nor" in refusal(copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    message = refusal(copy)
    assert "only pytorch_model.bin" in message
    assert "safetensors only: convert it" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 200_000])
def test_bad_config_json(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(copy)


def test_no_config_json(tmp_path: Path) -> None:
    assert "config.json is missing" in refusal(tmp_path)


def test_shards(shards: Path, whole: Path) -> None:
    assert len(list(shards.glob("*.safetensors"))) > 2
    one, many = checkpoint.load(whole), checkpoint.load(shards)
    for name, value in one.decoder.state_dict().items():
        assert torch.equal(value, many.decoder.state_dict()[name])


def test_missing_shard(shards: Path) -> None:
    victim = sorted(shards.glob("*.safetensors"))[1]
    victim.unlink()
    assert f"{victim} is missing" in refusal(shards)


def test_index_that_names_a_tensor_no_shard_has(shards: Path) -> None:
    file = sorted(shards.glob("*.safetensors"))[0].name
    edit_json(shards / INDEX, lambda i: i["weight_map"].update({"model.more": file}))
    assert "lacks 'model.more'" in refusal(shards)


def test_shard_with_a_tensor_the_index_lacks(shards: Path) -> None:
    edit_json(shards / INDEX, lambda i: i["weight_map"].pop("model.norm.weight"))
    assert "holds 'model.norm.weight'" in refusal(shards)


def test_index_without_a_map(shards: Path) -> None:
    (shards / INDEX).write_text("{}")
    assert "no weight_map" in refusal(shards)


def test_index_that_points_elsewhere(shards: Path) -> None:
    edit_json(
        shards / INDEX, lambda i: i["weight_map"].update({"model.norm.weight": "../x.safetensors"})
    )
    assert "not a plain file name" in refusal(shards)


def test_dtypes(whole: Path) -> None:
    assert checkpoint.load(whole).dtype == torch.float32
    half = checkpoint.load(whole, dtype="bfloat16")
    assert {p.dtype for p in half.decoder.parameters()} == {torch.bfloat16}
    assert half.decoder.rope.frequencies_P.dtype == torch.float32
    assert "int4" in refusal(whole, dtype="int4")


def test_auto_dtype_is_what_is_stored_not_what_config_says(tmp_path: Path) -> None:
    directory = checkpoints.make(tmp_path / "m", "qwen3", dtype=torch.bfloat16)
    edit_json(directory / "config.json", lambda c: c.update(dtype="float32"))
    assert checkpoint.load(directory).dtype == torch.bfloat16


def test_weights_are_mapped_not_copied(whole: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    loaded = checkpoint.load(whole)
    assert str(whole / WEIGHTS) in maps.read_text()
    assert next(loaded.decoder.parameters()).requires_grad
    with torch.no_grad():  # private mapping: training on it leaves the file as it is
        loaded.decoder.norm.weight.fill_(3.0)
    assert not (checkpoint.load(whole).decoder.norm.weight == 3).all()


def test_fingerprint_follows_content(whole: Path, copy: Path, sharded: Path) -> None:
    first = checkpoint.load(whole).fingerprint
    assert len(first) == 64
    assert checkpoint.load(copy).fingerprint == first
    assert checkpoint.load(sharded).fingerprint != first
    edit(copy, lambda t: t["model.norm.weight"].add_(1))
    second = checkpoint.load(copy).fingerprint
    edit_json(copy / "config.json", lambda c: c.update(rms_norm_eps=1e-4))
    assert len({first, second, checkpoint.load(copy).fingerprint}) == 3


def test_generation_defaults(copy: Path) -> None:
    path = copy / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": 9}))
    seen = peek(copy)
    assert (seen.generation.temperature, seen.generation.top_p, seen.generation.top_k) == (
        0.6,
        0.9,
        20,
    )
    assert seen.eos_ids == checkpoint.load(copy).eos_ids == (2, 9)
    path.write_text(json.dumps({"do_sample": False, "temperature": 0.6}))
    assert peek(copy).generation.temperature == 0
    path.unlink()
    assert peek(copy).generation.temperature is None
    for name, value in [
        ("temperature", -1),
        ("temperature", True),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("repetition_penalty", 0),
        ("eos_token_id", "x"),
        ("eos_token_id", 10**6),
    ]:
        path.write_text(json.dumps({name: value}))
        with pytest.raises(CheckpointError, match=name):
            peek(copy)


def test_save_does_not_overwrite_unasked(tmp_path: Path, whole: Path) -> None:
    loaded = checkpoint.load(whole)
    checkpoint.save(loaded.decoder, loaded.config, tmp_path / "out")
    (tmp_path / "out" / "note").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        checkpoint.save(loaded.decoder, loaded.config, tmp_path / "out")
    assert (tmp_path / "out" / "note").exists()
    checkpoint.save(loaded.decoder, loaded.config, tmp_path / "out", replace_existing=True)
    assert not (tmp_path / "out" / "note").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    checkpoint.load(tmp_path / "out")


def test_save_that_fails_leaves_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(whole)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(loaded.decoder, loaded.config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_save_where_nothing_can_be(tmp_path: Path, whole: Path) -> None:
    loaded = checkpoint.load(whole)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write beside"):
        checkpoint.save(loaded.decoder, loaded.config, tmp_path / "file" / "out")
    with pytest.raises(CheckpointError, match="dtype 'int8'"):
        checkpoint.save(loaded.decoder, loaded.config, tmp_path / "out", dtype="int8")


def test_fresh_weights_are_a_function_of_the_seed(whole: Path) -> None:
    config = replace(checkpoint.load(whole).config, tie_word_embeddings=True, qkv_bias=True)
    one, two, three = (checkpoint.Decoder(config) for _ in range(3))
    for decoder, seed in ((one, 1), (two, 1), (three, 2)):
        decoder.init_weights(seed)
    assert torch.equal(one.head_VD, two.head_VD)
    assert not torch.equal(one.head_VD, three.head_VD)
    assert one.head_VD is one.embed_tokens.weight
    assert (one.norm.weight == 1).all()
    assert abs(float(one.head_VD.detach().std()) - config.initializer_range) < 1e-3
