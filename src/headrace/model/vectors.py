"""Lists of ids → float32 vectors: an encoder that runs, its pooling, and the cut.

    stack = EagerEncoder(checkpoint.encoder, device)
    vectors_CD = Vectors(stack, checkpoint.sentences)([[101, 7592, 102], ...])

Invariant: a row's vector is a function of its ids alone where the stack's arithmetic is (in
NativeEncoder bit for bit); nothing is padded.

Shapes: T packed tokens, D model, C documents.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from headrace.model.encoder import Encoder
from headrace.model.pooling import pool
from headrace.model.sentences import SentenceConfig


class EncoderStack(Protocol):
    """Hidden states of documents end to end."""

    @property
    def name(self) -> str:
        """What runs: `torch float32`, `native avx512 bfloat16`."""
        ...

    def hidden(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `Encoder.hidden`; ids are int64 on the CPU."""
        ...


class EagerEncoder:
    """The torch encoder, on any device."""

    def __init__(self, encoder: Encoder, device: torch.device | str = "cpu") -> None:
        self._encoder = encoder
        self._device = torch.device(device)
        dtype = str(encoder.norm.weight.dtype).removeprefix("torch.")
        self.name = f"torch {dtype}"

    @torch.inference_mode()
    def hidden(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `Encoder.hidden`."""
        return self._encoder.hidden(ids_T.to(self._device), lengths)


class Vectors:
    """A stack and what comes after it."""

    def __init__(self, stack: EncoderStack, config: SentenceConfig) -> None:
        self._stack = stack
        self._config = config
        self.name = stack.name

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """[C, D] float32 on the CPU, one row an input, in their order."""
        lengths = [len(ids) for ids in inputs]
        ids_T = torch.tensor(list(chain.from_iterable(inputs)))
        return pool(self._stack.hidden(ids_T, lengths), lengths, self._config).cpu()
