"""Ids → hidden states that have seen all of their document: BERT's encoder, packed.

One ragged batch, documents end to end, nothing padded: a document is a run of rows, and attention
stays inside it. Everything but attention works a row at a time. Post-norm, absolute positions, erf
or tanh GELU (Devlin et al. 2018, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692 for RoBERTa's
positions). Attention over both directions, so there is no cache and no step but the whole input.

Shapes: T packed tokens, D model, N heads, H head dim, L tokens of one document, B documents of
one length, I inner.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.model.encoder_config import EncoderConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


class EncoderLayer(nn.Module):
    """Attention, add and norm; feed forward, add and norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self._heads = config.num_attention_heads
        self._activation = _ACTIVATIONS[config.activation]

    def forward(self, x_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Rows of documents of these lengths, in turn."""
        attended_TD = attend(self.qkv(x_TD), lengths, self._heads)
        x_TD = self.attention_norm(x_TD + self.out(attended_TD))
        return self.norm(x_TD + self.down(self._activation(self.up(x_TD))))


class Encoder(nn.Module):
    """Embeddings and layers; `hidden` is all there is to it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.types = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def hidden(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states of documents end to end.

        Args:
            ids_T: All ids.
            lengths: Of the documents, in their order; they add up to T.
        """
        pos_T = positions(lengths, self.config.first_position).to(ids_T.device)
        x_TD = self.words(ids_T) + self.types.weight[0] + self.positions(pos_T)
        x_TD = self.norm(x_TD)
        for layer in self.layers:
            x_TD = layer(x_TD, lengths)
        return x_TD


def positions(lengths: Sequence[int], first: int) -> Tensor:
    """Positions of documents end to end, each from `first` on."""
    return torch.cat([torch.arange(first, first + length) for length in lengths])


def attend(qkv_TE: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    """Attention inside each document; neighbours of one length share a call."""
    parts: list[Tensor] = []
    start = 0
    for length, group in groupby(lengths):
        rows = length * sum(1 for _ in group)
        qkv_BLE = qkv_TE[start : start + rows].unflatten(0, (-1, length))
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in qkv_BLE.chunk(3, dim=-1))
        o_BNLH = functional.scaled_dot_product_attention(q, k, v)
        parts.append(o_BNLH.transpose(1, 2).flatten(2).flatten(0, 1))
        start += rows
    return torch.cat(parts)
