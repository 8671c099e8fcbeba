"""A checkpoint's `config.json` ⇄ `ModelConfig`: everything the decoder's arithmetic depends on.

Invariant: a file that `from_hf` accepts is computed as transformers computes it; a feature that is
not implemented is refused by its name, never ignored. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.quantization import Quantization
from headrace.model.rope_config import RopeConfig, parse_rope

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Family (`model_type`) -> the architecture it is served as."""

FULL, SLIDING = "full_attention", "sliding_attention"
_LIMIT = 1 << 31


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape and arithmetic of a decoder, in the names of `config.json`."""

    family: str
    """llama | mistral | qwen2 | qwen3"""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    """Sliding window of each layer in tokens, itself counted; None = sees everything, and so does
    a layer beyond the tuple's end."""
    initializer_range: float = 0.02
    dtype: str = "float32"
    """What the checkpoint's file says its weights are stored in."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    quantization: Quantization | None = None
    """How its matrices are stored; None = all in `dtype`."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not 0 < value < _LIMIT:
                raise CheckpointError(f"config.json: {name} {value} is not between 1 and 2^31")
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"config.json: head_dim {self.head_dim} is odd; RoPE turns pairs")

    @property
    def context_tokens(self) -> int:
        """The longest sequence the checkpoint says it is made for."""
        rope = self.rope
        if rope.kind == "yarn" and rope.factor is not None and rope.original_tokens is not None:
            return max(self.max_position_embeddings, int(rope.original_tokens * rope.factor))
        return self.max_position_embeddings

    def window(self, layer: int) -> int | None:
        """Sliding window of a layer in tokens; None = none."""
        return self.windows[layer] if layer < len(self.windows) else None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "ModelConfig":
        """Parse a `config.json`, of transformers 4 or 5.

        Raises:
            UnsupportedModel: A family or feature that is not implemented, by its name.
            CheckpointError: A value that is missing or out of range.
        """
        family = hf.get("model_type")
        _refuse_unsupported(hf, family)
        assert isinstance(family, str)
        heads = _int(hf, "num_attention_heads")
        key_heads = hf.get("num_key_value_heads")
        if key_heads is None and "num_key_value_heads" not in hf and family != "llama":
            raise CheckpointError("config.json: num_key_value_heads is missing")
        hidden = _int(hf, "hidden_size")
        layers = _int(hf, "num_hidden_layers")
        max_tokens = _int(hf, "max_position_embeddings")
        head_dim = _head_dim(hf, family, hidden, heads)
        bias = _flag(hf, "attention_bias")
        return cls(
            family=family,
            vocab_size=_int(hf, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_int(hf, "intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads if key_heads is None else _int(hf, "num_key_value_heads"),
            head_dim=head_dim,
            max_position_embeddings=max_tokens,
            rms_norm_eps=_number(hf, "rms_norm_eps", 1e-6),
            tie_word_embeddings=_flag(hf, "tie_word_embeddings"),
            rope=parse_rope(hf, head_dim=head_dim, max_tokens=max_tokens),
            qkv_bias=bias or family == "qwen2",
            o_bias=bias and family != "qwen2",
            mlp_bias=_flag(hf, "mlp_bias"),
            qk_norm=family == "qwen3",
            windows=_windows(hf, family, layers),
            initializer_range=_number(hf, "initializer_range", 0.02),
            dtype=_dtype(hf),
            bos_token_id=next(iter(token_ids(hf, "bos_token_id")), None),
            eos_token_ids=token_ids(hf, "eos_token_id"),
            pad_token_id=next(iter(token_ids(hf, "pad_token_id")), None),
            quantization=(
                Quantization.from_hf(hf["quantization_config"])
                if hf.get("quantization_config")
                else None
            ),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of these settings, readable by transformers 4 and 5 and their kin."""
        rope = self.rope.to_hf()
        eos = self.eos_token_ids
        hf: dict[str, Any] = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            **{name: getattr(self, name) for name in _SIZES},
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "attention_dropout": 0.0,
            "rope_theta": self.rope.theta,
            "rope_parameters": rope,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
            "use_cache": True,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
            "pad_token_id": self.pad_token_id,
        }
        if self.rope.kind != "default":
            hf["rope_scaling"] = rope
        if self.quantization is not None:
            hf["quantization_config"] = self.quantization.to_hf()
        if self.family in ("llama", "qwen3"):
            hf["attention_bias"] = self.o_bias
        if self.family == "llama":
            hf["mlp_bias"] = self.mlp_bias
        window = next((width for width in self.windows if width is not None), None)
        if self.family == "mistral":
            hf["sliding_window"] = window
        if self.family in ("qwen2", "qwen3"):
            hf["use_sliding_window"] = window is not None
            hf["sliding_window"] = window
            hf["layer_types"] = [
                FULL if self.window(layer) is None else SLIDING
                for layer in range(self.num_hidden_layers)
            ]
            first = next((i for i, width in enumerate(self.windows) if width is not None), None)
            hf["max_window_layers"] = self.num_hidden_layers if first is None else first
        return hf


def classifier_fields(config: ModelConfig) -> dict[str, Any]:
    """What `config.json` says where a scalar head takes the place of the one over words."""
    return {
        "architectures": [classifier_of(config.family)],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "num_labels": 1,
    }


def classifier_of(family: str) -> str:
    """The family's architecture with a head of labels, in transformers' names."""
    return ARCHITECTURES[family].replace("ForCausalLM", "ForSequenceClassification")


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

# Keys that change the arithmetic in models that are like these four, but are not.
_FEATURES = (
    "compression_config",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "attention_multiplier",
    "residual_multiplier",
    "embedding_multiplier",
    "query_pre_attn_scalar",
    "no_rope_layers",
    "use_mrope",
    "vision_config",
    "audio_config",
    "kv_lora_rank",
    "is_encoder_decoder",
)


def _refuse_unsupported(hf: Mapping[str, Any], family: object) -> None:
    families = ", ".join(ARCHITECTURES)
    if family not in ARCHITECTURES:
        raise UnsupportedModel(
            f"config.json: model_type {family!r} is not supported; supported are {families}"
        )
    names = hf.get("architectures") or [ARCHITECTURES[str(family)]]
    if names != [ARCHITECTURES[str(family)]]:
        raise UnsupportedModel(
            f"config.json: architectures {names} is not supported; "
            f"{family} is served as {ARCHITECTURES[str(family)]}"
        )
    for name in _FEATURES:
        if hf.get(name):
            raise UnsupportedModel(
                f"config.json: {name} is not supported; use a checkpoint without it"
            )
    activation = hf.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(
            f"config.json: hidden_act {activation!r} is not supported; only silu is"
        )
    if hf.get("attention_bias") and family == "mistral":
        raise UnsupportedModel("config.json: attention_bias is not supported for mistral")
    if hf.get("attention_bias") is False and family == "qwen2":
        raise UnsupportedModel("config.json: attention_bias false is not supported for qwen2")
    if hf.get("mlp_bias") and family != "llama":
        raise UnsupportedModel(f"config.json: mlp_bias is not supported for {family}")


def _windows(hf: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...]:
    width = None if hf.get("sliding_window") is None else _int(hf, "sliding_window")
    types = hf.get("layer_types")
    if types is not None and (
        not isinstance(types, list) or len(types) != layers or not set(types) <= {FULL, SLIDING}
    ):
        raise UnsupportedModel(
            f"config.json: layer_types must be {layers} of {FULL} and {SLIDING}, not {types!r:.200}"
        )
    if family == "llama":
        if width is not None and width < _int(hf, "max_position_embeddings"):
            raise UnsupportedModel(
                f"config.json: sliding_window {width} is not supported for llama"
            )
        width = None
    elif family == "mistral":
        types = types or [SLIDING if width is not None else FULL] * layers
        if len(set(types)) > 1 or (types[0] == SLIDING) != (width is not None):
            raise UnsupportedModel(
                "config.json: layer_types that differ between layers, or from sliding_window, are "
                "not supported for mistral"
            )
    elif not _flag(hf, "use_sliding_window"):
        width = None
    types = types or _qwen_layer_types(hf, layers, width)
    if width is None:
        if SLIDING in types:
            raise UnsupportedModel(
                f"config.json: layer_types has {SLIDING} but no sliding_window is in use"
            )
        return ()
    return tuple(width if kind == SLIDING else None for kind in types)


def _qwen_layer_types(hf: Mapping[str, Any], layers: int, width: int | None) -> list[str]:
    full = layers if width is None else hf.get("max_window_layers", 28)
    if isinstance(full, bool) or not isinstance(full, int):
        raise CheckpointError(f"config.json: max_window_layers {full!r} is not an integer")
    return [SLIDING if layer >= full else FULL for layer in range(layers)]


def _head_dim(hf: Mapping[str, Any], family: str, hidden: int, heads: int) -> int:
    if hf.get("head_dim") is not None:
        return _int(hf, "head_dim")
    if family == "qwen3":
        return 128  # transformers' default for the family, whatever hidden_size says
    if hidden % heads:
        raise CheckpointError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads} "
            "and there is no head_dim"
        )
    return hidden // heads


def _dtype(hf: Mapping[str, Any]) -> str:
    dtype = hf.get("dtype") or hf.get("torch_dtype") or "float32"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UnsupportedModel(
            f"config.json: dtype {dtype!r} is not supported; float32, bfloat16 and float16 are"
        )
    return dtype


def token_ids(hf: Mapping[str, Any], key: str, *, file: str = "config.json") -> tuple[int, ...]:
    """A field that is one token id, a list of them or null."""
    value = hf.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for item in values:
        # -1 is how some files write "none".
        if isinstance(item, bool) or not isinstance(item, int) or item < -1:
            raise CheckpointError(f"{file}: {key} {value!r} is not a token id or a list of them")
    return tuple(item for item in values if item >= 0)


def _int(hf: Mapping[str, Any], key: str) -> int:
    if key not in hf:
        raise CheckpointError(f"config.json: {key} is missing")
    value = hf[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {key} {value!r} is not a positive integer")
    return value


def _number(hf: Mapping[str, Any], key: str, default: float) -> float:
    value = hf.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise CheckpointError(f"config.json: {key} {value!r} is not a number between 0 and 1")
    return float(value)


def _flag(hf: Mapping[str, Any], key: str) -> bool:
    value = hf.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} {value!r} is not true or false")
    return bool(value)
