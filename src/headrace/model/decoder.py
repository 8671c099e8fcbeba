"""Token ids → hidden states → logits: the one decoder of every family, for training and serving.

    hidden_TD = decoder.hidden(ids_T, pos_T, attend)    # any mix of sequences in packed rows
    logits_RV = decoder.logits(hidden_TD[rows_R])       # float32, only the rows that are needed

Invariant: no branch on training or serving, no cache, no padding, no state: what differs between
packed training, prefill, decode and scoring is `attend`. Fusion, adapters and quantized linears
replace the modules from outside; the names are those of Hugging Face checkpoints without `model.`.

Legend: T rows, D model, F feed-forward, N query heads, K key heads, H head dim, P = H/2 pairs, V
vocabulary, R rows that are projected.

Source: Touvron et al. 2023 (Llama), with Qwen2's biases, Qwen3's per-head norm of queries and keys.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.kernels.dispatch import kernels_for
from headrace.model.attend import Attend
from headrace.model.config import ModelConfig
from headrace.model.rope import Angles, Rope


class Linear(nn.Linear):
    """`x @ W^T + b`, its values not set: they come from a checkpoint or `Decoder.init_weights`."""

    def reset_parameters(self) -> None:
        """Nothing: random values that nobody reads cost seconds, on the meta device too."""


class Embedding(nn.Embedding):
    """A table of rows, its values not set, as `Linear`'s."""

    def reset_parameters(self) -> None:
        """Nothing."""


class RmsNorm(nn.Module):
    """`x / rms(x) * weight` over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels_for(x.device).rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        model, head = config.hidden_size, config.head_dim
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = Linear(model, heads * head, bias=config.qkv_bias)
        self.k_proj = Linear(model, key_heads * head, bias=config.qkv_bias)
        self.v_proj = Linear(model, key_heads * head, bias=config.qkv_bias)
        self.o_proj = Linear(heads * head, model, bias=config.o_bias)
        eps = config.rms_norm_eps
        self.q_norm = RmsNorm(head, eps) if config.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(head, eps) if config.qk_norm else nn.Identity()

    def forward(self, x_TD: Tensor, angles: Angles, attend: Attend) -> Tensor:
        q_TNH = self.q_norm(self.q_proj(x_TD).unflatten(-1, (-1, self.head_dim)))
        k_TKH = self.k_norm(self.k_proj(x_TD).unflatten(-1, (-1, self.head_dim)))
        v_TKH = self.v_proj(x_TD).unflatten(-1, (-1, self.head_dim))
        rotate = kernels_for(x_TD.device).rotate
        q_TNH, k_TKH = rotate(q_TNH, *angles), rotate(k_TKH, *angles)
        return self.o_proj(attend(self.layer, q_TNH, k_TKH, v_TKH, self.window).flatten(1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        model, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(model, inner, bias=bias)
        self.up_proj = Linear(model, inner, bias=bias)
        self.down_proj = Linear(inner, model, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class Layer(nn.Module):
    """Attention, then feed-forward, each on the norm of the stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, angles: Angles, attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), angles, attend)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class Decoder(nn.Module):
    """The model.

    Args:
        config: Shape and arithmetic.
        context_tokens: Longest sequence to be served, on which `dynamic` and `longrope` positions
            depend (see `rope`); None = `config.context_tokens`.
    """

    def __init__(self, config: ModelConfig, *, context_tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.context_tokens = context_tokens or config.context_tokens
        self.rope = Rope(config, context_tokens=self.context_tokens)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def head_VD(self) -> Tensor:
        """The output projection: its own matrix, or the embedding's where they are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(self, ids_T: Tensor, pos_T: Tensor, attend: Attend) -> Tensor:
        """Final, normed hidden state of each row; `pos_T` counts from 0 in each sequence."""
        angles = self.rope.angles(pos_T)
        x_TD = self.embed_tokens(ids_T)
        for layer in self.layers:
            x_TD = layer(x_TD, angles, attend)
        return self.norm(x_TD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Scores over the vocabulary, float32 whatever the weights are."""
        hidden_RD = hidden_RD.to(self.norm.weight.dtype)  # narrower where training computes so
        if self.lm_head is None:
            return functional.linear(hidden_RD, self.embed_tokens.weight).float()
        return self.lm_head(hidden_RD).float()

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill with fresh weights: normal(0, `initializer_range`), norms one, biases zero."""
        generator = torch.Generator(device=self.norm.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
