"""A prompt -> greedy continuation, slow and obvious: to look at a model while it trains."""

from collections.abc import Collection, Sequence

import torch

from headrace.model.attend import Packed
from headrace.model.decoder import Decoder


@torch.no_grad()
def greedy(
    decoder: Decoder, prompt: Sequence[int], *, max_tokens: int, eos_ids: Collection[int]
) -> list[int]:
    """The likeliest ids after the prompt, up to and with the first of `eos_ids`.

    The whole sequence runs again for each token: no cache to get wrong, and a few dozen tokens of a
    small model are all that is asked for here.
    """
    ids, device = list(prompt), decoder.norm.weight.device
    for _ in range(max_tokens):
        hidden_TD = decoder.hidden(
            torch.tensor(ids, device=device),
            torch.arange(len(ids), device=device),
            Packed(torch.zeros(len(ids), dtype=torch.long)),
        )
        ids.append(int(decoder.logits(hidden_TD[-1:]).argmax()))
        if ids[-1] in eos_ids:
            break
    return ids[len(prompt) :]
