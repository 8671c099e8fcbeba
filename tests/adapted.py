"""Adapters of every kind on a decoder, filled with numbers that matter, and what they compute."""

import torch
from torch import Tensor

from headrace.model import adapters
from headrace.model.adapters import Adapter
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder

SETTINGS = {
    "lora": Adapter(method="lora", rank=4, targets="q_proj,v_proj,down_proj"),
    "rslora": Adapter(method="rslora", rank=9, alpha=8.0),
    "dora": Adapter(method="dora", rank=4),
    "dora rslora": Adapter(method="dora", rank=3, rslora=True, targets="mlp,o_proj"),
    "lora embeddings": Adapter(method="lora", rank=4, targets="all-linear,embed_tokens,lm_head"),
    "dora embeddings": Adapter(method="dora", rank=4, targets="q_proj,embed_tokens,lm_head"),
    "whole": Adapter(method="lora", targets="k_proj", whole="lm_head,embed_tokens,norm"),
}
IDS = torch.tensor([5, 17, 200, 3, 3, 90, 41, 77])


def fill(decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(7)
    for wrapper in adapters.wrappers(decoder).values():
        for own, parameter in wrapper.own_parameters().items():
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            if own == "lora_magnitude_vector":
                parameter.data.mul_(1 + noise)
            else:
                parameter.data.add_(noise)


def hidden(decoder: Decoder) -> Tensor:
    return decoder.hidden(IDS, torch.arange(len(IDS)), Packed(torch.zeros(len(IDS)).int()))


def logits(decoder: Decoder) -> Tensor:
    """As the losses make them: from the head's matrix."""
    return hidden(decoder) @ decoder.head_VD.T


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in units of the largest value (or of one, where that is smaller)."""
    scale = max(1.0, float(theirs.detach().abs().max()))
    return float((ours.detach() - theirs.detach()).abs().max()) / scale
