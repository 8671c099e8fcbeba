"""A model and held-out rows -> perplexity and bits per byte.

Bits per byte divides by the UTF-8 bytes of the text instead of by tokens, so that models with
different vocabularies can be compared (The Pile, arXiv 2101.00027, section 3.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headrace.data.pack import PackedBatch, TokenRow
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.tokens import Tokenizer
from headrace.training.objectives import next_token
from headrace.training.task import hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Batches that were never trained on, and the bytes their targets stand for."""

    batches: Sequence[PackedBatch]
    target_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well a model predicts the held-out text."""

    loss: float
    """Nats a token."""
    perplexity: float
    bits_per_byte: float
    tokens: int


def target_bytes(rows: Sequence[TokenRow], tokenizer: Tokenizer, *, without: int | None) -> int:
    """UTF-8 bytes of the supervised targets; `without` = a token that stands for no text."""
    return sum(
        len(tokenizer.token_bytes(int(token)))
        for row in rows
        for token, weight in zip(row.ids[1:], row.weights[1:], strict=True)
        if weight and int(token) != without
    )


@torch.no_grad()
def score(decoder: Decoder, held_out: HeldOut) -> Score:
    """Score every target of the held-out batches.

    Raises:
        DataError: Nothing was held out.
    """
    nats, tokens = 0.0, 0.0
    for batch in held_out.batches:
        loss = next_token(hidden(decoder, batch), decoder.head_VD, batch)
        nats += float(loss.sum)
        tokens += loss.weight
    if not tokens or not held_out.target_bytes:
        raise DataError("nothing was held out to evaluate on; hold out more documents")
    return Score(
        loss=nats / tokens,
        perplexity=math.exp(nats / tokens),
        bits_per_byte=nats / math.log(2) / held_out.target_bytes,
        tokens=int(tokens),
    )
