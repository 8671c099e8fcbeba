"""What `recipe.Compute` asks for, put around a decoder from outside.

Invariants: no parameter gets another name, so checkpoints are the same whatever was chosen; nothing
here branches in a forward pass: a layer's `forward` is replaced by a wrapper of it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headrace.errors import ConfigError
from headrace.kernels import dispatch
from headrace.model.decoder import Decoder
from headrace.model.lora import LoraLinear
from headrace.training.parallel import Ranks
from headrace.training.recipe import Compute

Forward = Callable[..., Tensor]


def place(compute: Compute, ranks: Ranks) -> torch.device:
    """Where a rank computes; also sets how many threads one operation takes.

    Raises:
        ConfigError: A GPU is asked for that is not there.
    """
    if compute.threads:
        torch.set_num_threads(compute.threads)
    there = torch.cuda.is_available()
    if compute.device == "cuda" and not there:
        raise ConfigError("compute.device = cuda but this torch sees no GPU; use cpu or auto")
    if compute.device == "cpu" or not there:
        return torch.device("cpu")
    chosen = torch.device("cuda", ranks.rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    return chosen


def wrap(decoder: Decoder, compute: Compute) -> None:
    """Give the layers the precision, fusion and thrift asked for, in place.

    Comes after adapters and before sharding. In bfloat16 the stream between layers stays float32,
    as do weights, norms and softmaxes; what `Decoder.hidden` returns is bfloat16, and losses
    multiply in the type of what they are given.
    """
    kind = decoder.norm.weight.device.type
    if compute.compile:
        _keep_attention_opaque(kind)
    for layer in decoder.layers:
        forward: Forward = layer.forward
        if compute.compile:
            forward = torch.compile(forward, dynamic=True)
        if compute.precision == "bfloat16":
            forward = _autocast(forward, kind)
        if compute.checkpoint_activations:
            forward = _recomputed(forward, draws=_draws(layer))
        layer.forward = forward
    if compute.precision == "bfloat16":
        norm: Forward = decoder.norm.forward
        decoder.norm.forward = lambda x: norm(x).to(torch.bfloat16)


def _autocast(forward: Forward, kind: str) -> Forward:
    def run(*inputs: Any) -> Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return forward(*inputs)

    return run


def _draws(layer: nn.Module) -> bool:
    """Whether a layer has dropout, whose random state must be brought back."""
    return any(isinstance(m, LoraLinear) and m.spec.dropout > 0 for m in layer.modules())


def _recomputed(forward: Forward, *, draws: bool) -> Forward:
    def run(*inputs: Any) -> Tensor:
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=draws)

    return run


def _keep_attention_opaque(kind: str) -> None:
    """Compile around packed attention: its documents differ from batch to batch.

    Traced, every batch would be another program.
    """
    kernels = dispatch.BY_DEVICE.get(kind, dispatch.TORCH)
    attention = torch.compiler.disable(kernels.packed_attention)
    dispatch.BY_DEVICE[kind] = replace(kernels, packed_attention=attention)
