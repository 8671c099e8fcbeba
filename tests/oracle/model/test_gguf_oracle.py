"""Exported GGUF files, read back through gguf-py and, where there is one, by llama.cpp itself."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open

import checkpoints
import gguf_files
from headrace.errors import CheckpointError, TokenizerError, UnsupportedModel, UserError
from headrace.model import checkpoint
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.model.gguf.export import FileWritten, export
from headrace.tokens import Tokenizer, train_bpe
from headrace.training import sample

SPROUT = Path(checkpoint.__file__).parents[1] / "sprout"
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [f"The {n}th line of a small text, number {n * 7} of it.\n\n" for n in range(200)]
    return train_bpe(texts, vocab_size=300, special_tokens=("<|endoftext|>",), eos="<|endoftext|>")


def made(directory: Path, tokenizer: Tokenizer, family: str, **fields: Any) -> Path:
    rows = tokenizer.vocab_size + 4  # as many checkpoints, more rows than tokens
    config: dict[str, Any] = {**SHAPE, "vocab_size": rows, "eos_token_id": 0, **fields}
    checkpoints.make(directory, family, **config)
    tokenizer.save(directory)
    return directory


def exported(directory: Path, target: Path, type: str) -> FileWritten:
    events = list(export(directory, target, type=type))
    assert isinstance(events[-1], FileWritten)
    return events[-1]


@torch.no_grad()
def logits(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    places = torch.arange(len(ids))
    return decoder.logits(decoder.hidden(ids, places, Packed(torch.zeros_like(places))))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"head_dim": None}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("type", ["f16", "q8_0", "q4_0"])
def test_a_file_read_back_computes_what_was_exported(
    case: str, type: str, tmp_path: Path, tokenizer: Tokenizer
):
    family, given = CASES[case]
    directory = made(
        tmp_path / "m", tokenizer, family, **{k: v for k, v in given.items() if v is not None}
    )
    exported(directory, tmp_path / "m.gguf", type)
    loaded = checkpoint.load(directory, dtype="float32")
    back = gguf_files.decoder(tmp_path / "m.gguf", loaded.config)
    ids = torch.randint(
        0, loaded.config.vocab_size, (200,), generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = logits(loaded.decoder, ids), logits(back, ids)
    limit = {"f16": 0.02, "q8_0": 0.4, "q4_0": 6.0}[type]
    assert (ours - theirs).abs().max() < limit
    if type == "f16":
        # Random weights have ties; where two are further apart than the error, the choice is equal.
        two = ours.topk(2).values
        clear = two[:, 0] - two[:, 1] > 2 * (ours - theirs).abs().max()
        assert clear.float().mean() > 0.9
        assert torch.equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])


@pytest.mark.parametrize(("type", "least"), [("f16", 1.0), ("q8_0", 0.98), ("q4_0", 0.75)])
def test_sprout_chooses_the_same_tokens(type: str, least: float, tmp_path: Path):
    exported(SPROUT, tmp_path / "s.gguf", type)
    loaded = checkpoint.load(SPROUT, dtype="float32")
    back = gguf_files.decoder(tmp_path / "s.gguf", loaded.config)
    text = (Path(os.__file__)).read_text("utf-8")
    ids = torch.tensor(Tokenizer.load(SPROUT).encode(text)[:512])
    same = logits(loaded.decoder, ids).argmax(-1) == logits(back, ids).argmax(-1)
    assert same.float().mean() >= least


@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
def test_blocks_are_the_reference_quantizers(type: str, tmp_path: Path, tokenizer: Tokenizer):
    directory = made(tmp_path / "m", tokenizer, "qwen3")
    exported(directory, tmp_path / "m.gguf", type)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    with safe_open(directory / "model.safetensors", framework="np") as weights:
        for ours, theirs in (
            ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
            ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ):
            stored = gguf.GGMLQuantizationType[type.upper()]
            assert found[theirs].tensor_type == stored
            expected = gguf.quantize(weights.get_tensor(ours), stored)
            assert np.array_equal(found[theirs].data, expected)
    head = gguf.GGMLQuantizationType.Q8_0
    assert found["output.weight"].tensor_type == head
    assert found["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def test_the_file_says_what_the_tokenizer_is(tmp_path: Path):
    exported(SPROUT, tmp_path / "s.gguf", "f16")
    told = gguf_files.fields(tmp_path / "s.gguf")
    tokenizer = Tokenizer.load(SPROUT)
    assert told["tokenizer.ggml.model"] == "gpt2"
    assert told["tokenizer.ggml.pre"] == "qwen2"
    assert told["tokenizer.ggml.eos_token_id"] == tokenizer.eos_id
    assert told["tokenizer.ggml.add_bos_token"] is False
    assert told["tokenizer.chat_template"] == (SPROUT / "chat_template.jinja").read_text("utf-8")
    for text, number in tokenizer.special.items():
        assert told["tokenizer.ggml.tokens"][number] == text
        assert told["tokenizer.ggml.token_type"][number] == gguf.TokenType.CONTROL
    spec = json.loads((SPROUT / "tokenizer.json").read_text("utf-8"))
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    assert told["tokenizer.ggml.merges"] == merges


def test_llama3_factors_slow_the_pairs_as_its_rope_does(tmp_path: Path, tokenizer: Tokenizer):
    directory = made(tmp_path / "m", tokenizer, "llama", rope_parameters=LLAMA3)
    exported(directory, tmp_path / "m.gguf", "f16")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    factors = tensors["rope_freqs.weight"].data
    oracle = checkpoints.oracle(directory).model.rotary_emb.inv_freq.numpy()
    plain = 1.0 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, oracle, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("mistral", {"sliding_window": 7}, "sliding_window 7"),
        (
            "qwen3",
            {"rope_parameters": LLAMA3},
            "'llama3' has no place in llama.cpp's qwen3",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "'dynamic' cannot be exported",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, given: dict[str, Any], message: str, tmp_path: Path, tokenizer: Tokenizer
):
    directory = made(tmp_path / "m", tokenizer, family, **given)
    with pytest.raises(UnsupportedModel, match=message):
        exported(directory, tmp_path / "m.gguf", "f16")
    assert not (tmp_path / "m.gguf").exists()


def test_unknown_tokenizers_types_and_weights_are_refused(tmp_path: Path, tokenizer: Tokenizer):
    directory = made(tmp_path / "m", tokenizer, "qwen3")
    with pytest.raises(UserError, match="'q9' is none of f16, q8_0, q4_0"):
        exported(directory, tmp_path / "m.gguf", "q9")
    path = directory / "tokenizer.json"
    spec = json.loads(path.read_text("utf-8"))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(TokenizerError, match="no name for this tokenizer's split pattern"):
        exported(directory, tmp_path / "m.gguf", "f16")
    tokenizer.save(directory)
    loaded = checkpoint.load(directory)
    parameter = loaded.decoder.get_parameter("layers.1.mlp.up_proj.weight")
    parameter.data = parameter.data.clone()
    parameter.data[0, 0] = 1e6
    checkpoint.save(loaded.decoder, loaded.config, tmp_path / "large")
    tokenizer.save(tmp_path / "large")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj.*float16 cannot hold"):
        exported(tmp_path / "large", tmp_path / "m.gguf", "f16")
    # Nothing of the failed ones is left, and nothing is overwritten.
    assert [path.name for path in tmp_path.iterdir() if "gguf" in path.name] == []
    exported(directory, tmp_path / "m.gguf", "f16")
    with pytest.raises(CheckpointError, match="exists already"):
        exported(directory, tmp_path / "m.gguf", "f16")


SERVER = os.environ.get("HEADRACE_LLAMA_SERVER", "")


@pytest.mark.skipif(not SERVER, reason="HEADRACE_LLAMA_SERVER names no llama-server of llama.cpp")
@pytest.mark.parametrize("case", ["llama", "llama3-rope", "qwen2", "qwen3", "sprout"])
def test_llama_cpp_gives_the_same_greedy_tokens(case: str, tmp_path: Path, tokenizer: Tokenizer):
    directory = SPROUT
    if case != "sprout":
        family, given = CASES[case]
        directory = made(
            tmp_path / "m", tokenizer, family, **{k: v for k, v in given.items() if v is not None}
        )
    exported(directory, tmp_path / "m.gguf", "f16")
    loaded = checkpoint.load(directory, dtype="float32")
    words = Tokenizer.load(directory)
    text = "The 12th line of a small text, it's number 84!\n\n  And so on: don't stop."
    ids = words.encode(text)
    expected = sample.greedy(loaded.decoder, ids, max_tokens=24, eos_ids=set(loaded.eos_ids))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "-c", "256", "-t", "1", "-fa", "off", "-ctk", "f32"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [SERVER, "-m", str(tmp_path / "m.gguf"), *options, "-ctv", "f32", "--no-webui"],
            stdout=subprocess.DEVNULL,
            stderr=log,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, tmp_path / "log")
            assert _post(url, "tokenize", {"content": text})["tokens"] == ids
            asked = {
                "prompt": ids,
                "n_predict": len(expected),
                "temperature": 0.0,
                "return_tokens": True,
                "cache_prompt": False,
            }
            answer = _post(url, "completion", asked)["tokens"]
        finally:
            process.kill()
    assert answer == [token for token in expected if token not in loaded.eos_ids]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
    pytest.fail(log.read_text()[-2000:])


def _post(url: str, path: str, body: Mapping[str, object]) -> dict[str, list[int]]:
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
