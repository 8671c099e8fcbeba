"""Steps over a tiny random model, for the GPU stack and the eager torch one side by side."""

from dataclasses import dataclass, field

import numpy as np
import torch

from headrace.model.attend import KvCache
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.stack import EagerStack, Step

BLOCK_TOKENS, BLOCKS = 16, 40

TINY = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=256,
    initializer_range=0.1,
)


def decoder(
    config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> Decoder:
    """Random weights, norms and biases too."""
    made = Decoder(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + mean)
    return made.to(device=device, dtype=dtype)


def eager(model: Decoder) -> EagerStack:
    weight = model.norm.weight
    kv = KvCache.allocate(
        model.config,
        blocks=BLOCKS,
        block_tokens=BLOCK_TOKENS,
        dtype=weight.dtype,
        device=weight.device,
    )
    return EagerStack(model, kv)


@dataclass(slots=True)
class Traffic:
    """Sequences of random tokens that grow as steps are asked for."""

    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    lengths: dict[int, int] = field(default_factory=dict[int, int])
    tables: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    taken: int = 0

    def step(self, rows: dict[int, int]) -> Step:
        """The next `rows[s]` tokens of each sequence s."""
        positions: list[int] = []
        for sequence, new in rows.items():
            start = self.lengths.get(sequence, 0)
            self.lengths[sequence] = start + new
            positions += range(start, start + new)
            table = self.tables.setdefault(sequence, [])
            while len(table) * BLOCK_TOKENS < start + new:
                table.append(BLOCKS - 1 - self.taken)
                self.taken += 1
        width = max(len(self.tables[sequence]) for sequence in rows)
        padded = [self.tables[s] + [0] * (width - len(self.tables[s])) for s in rows]
        return Step(
            ids_T=self.generator.integers(0, TINY.vocab_size, len(positions), dtype=np.int32),
            pos_T=np.array(positions, np.int32),
            row_start_S1=np.cumsum([0, *rows.values()], dtype=np.int32),
            context_S=np.array([self.lengths[sequence] for sequence in rows], np.int32),
            blocks_SB=np.array(padded, np.int32),
        )
