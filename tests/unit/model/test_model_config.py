"""config.json in every accepted spelling, round trips, and each refusal by its name."""

import subprocess
import sys
from typing import Any

import pytest

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.config import ModelConfig
from headrace.model.rope_config import RopeConfig

BASE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def parse(family: str = "llama", **fields: Any) -> ModelConfig:
    hf = {"model_type": family, **BASE, **fields}
    return ModelConfig.from_hf({key: value for key, value in hf.items() if value != "ABSENT"})


def test_reads_no_torch() -> None:
    code = (
        "import sys, headrace.model.config, headrace.model.files, headrace.model.hub, "
        "headrace.model.inspect; sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_the_families_imply() -> None:
    llama, qwen2, qwen3 = parse("llama"), parse("qwen2"), parse("qwen3")
    assert (llama.qkv_bias, llama.o_bias, llama.qk_norm, llama.head_dim) == (
        False,
        False,
        False,
        16,
    )
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.qk_norm, qwen2.head_dim) == (True, False, False, 16)
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.qk_norm, qwen3.head_dim) == (
        False,
        False,
        True,
        128,
    )
    assert parse("llama", num_key_value_heads="ABSENT").num_key_value_heads == 4
    assert parse("qwen2", num_key_value_heads=None).num_key_value_heads == 4
    biased = parse("llama", attention_bias=True)
    assert (biased.qkv_bias, biased.o_bias) == (True, True)
    assert parse("llama", tie_word_embeddings=True).tie_word_embeddings
    assert parse("llama", hidden_size=65, head_dim=16).head_dim == 16


def test_windows() -> None:
    assert parse("mistral", sliding_window=8).windows == (8, 8, 8)
    assert parse("mistral", sliding_window=None).windows == ()
    assert parse("qwen2", sliding_window=8).windows == ()
    qwen = parse("qwen2", sliding_window=8, use_sliding_window=True, max_window_layers=2)
    assert qwen.windows == (None, None, 8)
    assert [qwen.window(layer) for layer in range(3)] == [None, None, 8]
    types = ["sliding_attention", "full_attention", "full_attention"]
    listed = parse("qwen3", sliding_window=8, use_sliding_window=True, layer_types=types)
    assert listed.windows == (8, None, None)
    assert parse("llama", sliding_window=4096).windows == ()


def test_rope_spellings() -> None:
    old = parse(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2})
    new = parse(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})
    assert old.rope == new.rope == RopeConfig(kind="linear", factor=2.0, theta=5e5)
    assert parse().rope == RopeConfig()
    assert parse(rope_theta=1e6).rope.theta == 1e6
    assert parse(partial_rotary_factor=1.0).rope == RopeConfig()
    yarn = {"rope_type": "yarn", "factor": 4.0}
    assert parse(rope_scaling=yarn).rope.original_tokens == 512
    extended = parse(rope_scaling={**yarn, "original_max_position_embeddings": 256})
    assert extended.context_tokens == 1024
    assert (
        parse(rope_scaling=yarn, original_max_position_embeddings=128).rope.original_tokens == 128
    )


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "eos_token_id": [5, 6]}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "eos_token_id": 5}),
        ("mistral", {"sliding_window": 8, "dtype": "bfloat16", "pad_token_id": 0}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("qwen3", {"attention_bias": True, "tie_word_embeddings": True, "bos_token_id": 3}),
        (
            "qwen3",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "beta_fast": 8.0,
                    "truncate": False,
                }
            },
        ),
        ("llama", {"rope_scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}),
    ],
)
def test_round_trip(family: str, fields: dict[str, Any]) -> None:
    config = parse(family, **fields)
    assert ModelConfig.from_hf(config.to_hf()) == config


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {}, "model_type 'gpt2'"),
    ("mixtral", {}, "supported are llama, mistral, qwen2, qwen3"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClass"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("qwen3", {"num_experts": 8}, "num_experts"),
    ("llama", {"num_local_experts": 8}, "num_local_experts"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("qwen2", {"attention_bias": False}, "attention_bias"),
    ("qwen3", {"mlp_bias": True}, "mlp_bias"),
    ("llama", {"sliding_window": 8}, "sliding_window 8"),
    ("mistral", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    (
        "mistral",
        {"sliding_window": 8, "layer_types": ["sliding_attention"] + ["full_attention"] * 2},
        "layer_types",
    ),
    ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "no sliding_window"),
    ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer_types"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
    ("llama", {"dtype": "float64"}, "dtype 'float64'"),
    ("llama", {"torch_dtype": "int8"}, "dtype 'int8'"),
    ("llama", {"rope_scaling": {"type": "su"}}, "rope type 'su'"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "'mrope'"),
    ("llama", {"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "mrope_section"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "by layer type"),
]


@pytest.mark.parametrize(("family", "fields", "name"), UNSUPPORTED)
def test_unsupported_features_are_named(family: str, fields: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        parse(family, **fields)
    assert name in caught.value.message


INVALID: list[tuple[str, dict[str, Any], str]] = [
    *(
        (("llama", {key: "ABSENT"}, key))
        for key in BASE
        if key[:3] in ("voc", "hid") and "act" not in key
    ),
    ("mistral", {"num_key_value_heads": "ABSENT"}, "num_key_value_heads is missing"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers 0"),
    ("llama", {"num_hidden_layers": True}, "num_hidden_layers True"),
    ("llama", {"vocab_size": 1 << 40}, "vocab_size"),
    ("llama", {"vocab_size": "100"}, "vocab_size '100'"),
    ("llama", {"num_key_value_heads": 3}, "not a multiple"),
    ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5}, "hidden_size 64"),
    ("llama", {"head_dim": 15}, "head_dim 15 is odd"),
    ("llama", {"rms_norm_eps": "x"}, "rms_norm_eps"),
    ("llama", {"rms_norm_eps": -1}, "rms_norm_eps"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("llama", {"eos_token_id": "</s>"}, "eos_token_id"),
    ("llama", {"eos_token_id": [1, None]}, "eos_token_id"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": "a"}, "max_w"),
    ("mistral", {"sliding_window": 0}, "sliding_window 0"),
    ("llama", {"rope_scaling": "linear"}, "not an object"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "needs 'factor'"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0.5}}, "below 1"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor = '2'"),
    ("llama", {"rope_theta": -1.0}, "rope_theta"),
    (
        "llama",
        {"rope_scaling": {"type": "proportional", "partial_rotary_factor": 1.5}},
        "above 1",
    ),
    (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8,
                "low_freq_factor": 4,
                "high_freq_factor": 1,
            }
        },
        "high_freq_factor",
    ),
    (
        "llama",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "head_dim / 2 = 8",
    ),
]


@pytest.mark.parametrize(("family", "fields", "name"), INVALID)
def test_invalid_values_are_named(family: str, fields: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(family, **fields)
    assert name in caught.value.message
    assert not isinstance(caught.value, UnsupportedModel)


def test_minus_one_is_no_token() -> None:
    assert parse(pad_token_id=-1, eos_token_id=[-1, 7]).eos_token_ids == (7,)
    assert parse(pad_token_id=-1).pad_token_id is None
