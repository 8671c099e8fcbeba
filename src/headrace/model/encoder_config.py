"""An encoder's `config.json` ⇄ `EncoderConfig`: everything its arithmetic depends on.

Invariant: a file that `from_hf` accepts is computed as transformers computes it; a feature that is
not implemented is refused by its name, never ignored. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel

FAMILIES = ("bert", "roberta", "xlm-roberta")
"""`model_type` of what is served: one block, post-norm (Devlin et al. 2018, arXiv 1810.04805)."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

_LIMIT = 1 << 31
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Shape and arithmetic of an encoder, in the names of `config.json`."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    pad_token_id: int = 0
    dtype: str = "float32"
    """What the file says its weights are stored in."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not 0 < value < _LIMIT:
                raise CheckpointError(f"config.json: {name} {value} is not between 1 and 2^31")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.activation not in ACTIVATIONS:
            raise UnsupportedModel(
                f"config.json: hidden_act {self.activation!r} is not supported; supported are "
                f"{', '.join(ACTIVATIONS)}"
            )
        if self.max_tokens < 3:
            raise CheckpointError(
                f"config.json: max_position_embeddings {self.max_position_embeddings} leaves no "
                "room for a token between its marks"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def first_position(self) -> int:
        """RoBERTa's positions begin behind that of the padding."""
        return 0 if self.family == "bert" else self.pad_token_id + 1

    @property
    def max_tokens(self) -> int:
        """The longest input that there are positions for."""
        return self.max_position_embeddings - self.first_position

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "EncoderConfig":
        """Parse the content of config.json.

        Raises:
            CheckpointError: A field missing or malformed; UnsupportedModel names a feature.
        """
        family = hf.get("model_type")
        if family not in FAMILIES:
            raise UnsupportedModel(
                f"config.json: model_type {family!r} is not an encoder that is served; served are "
                f"{', '.join(FAMILIES)}"
            )
        for name, only in (("position_embedding_type", "absolute"), ("is_decoder", False)):
            if hf.get(name, only) != only:
                raise UnsupportedModel(
                    f"config.json: {name} {hf[name]!r} is not supported, only {only!r}"
                )
        sizes = {name: _int(hf, name) for name in _SIZES if name in hf or name not in _OPTIONAL}
        eps = hf.get("layer_norm_eps", 1e-12)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
            raise CheckpointError(f"config.json: layer_norm_eps {eps!r} is not between 0 and 1")
        return cls(
            family=str(family),
            layer_norm_eps=float(eps),
            activation=str(hf.get("hidden_act", "gelu")),
            pad_token_id=_pad(hf, family),
            dtype=str(hf.get("dtype") or hf.get("torch_dtype") or "float32"),
            **sizes,
        )


_OPTIONAL = ("type_vocab_size",)


def is_encoder(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a family that is served as an encoder."""
    return hf.get("model_type") in FAMILIES


def _pad(hf: Mapping[str, Any], family: object) -> int:
    if hf.get("pad_token_id") is None:
        return 0 if family == "bert" else 1
    return _int(hf, "pad_token_id")


def _int(hf: Mapping[str, Any], name: str) -> int:
    value = hf.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"config.json: {name} {value!r} is not a whole number")
    return value
