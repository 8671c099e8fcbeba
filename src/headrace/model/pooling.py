"""Hidden states of packed documents → one vector each: pooled, normalized, always float32.

Shapes: T packed tokens, D model, C documents.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headrace.model.sentences import CLS, SentenceConfig


def pool(hidden_TD: Tensor, lengths: Sequence[int], config: SentenceConfig) -> Tensor:
    """[C, D] float32: each document's vector as its sentence-transformers config has it."""
    counts_C = torch.tensor(lengths, device=hidden_TD.device)
    if config.pooling == CLS:
        pooled_CD = hidden_TD[counts_C.cumsum(0) - counts_C].float()
    else:
        pooled_CD = torch.segment_reduce(hidden_TD.float(), "mean", lengths=counts_C, axis=0)
    return functional.normalize(pooled_CD, dim=-1) if config.normalize else pooled_CD
