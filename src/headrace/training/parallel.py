"""One process or many: who does what, and what they tell each other.

Started by torchrun, a run has as many ranks as processes. Every rank computes the batches of a step
(a pure function), takes every `size`-th of them, and holds a part of each parameter and of its
optimizer state (FSDP2, `torch.distributed.fsdp.fully_shard`). Started alone, a run is the same code
with one rank.

Invariants: gradients are sums over ranks, not means, so that a step divides by its weight once,
whoever ran which batch; all ranks make as many forward passes, or their collectives would not meet:
one that has fewer batches runs another's with weight nought; numbers are added in the order of
ranks, so that all ranks hold the same.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from headrace.model.decoder import Decoder

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share(Generic[T]):
    """A batch that this rank runs."""

    batch: T
    scale: float
    """1; 0 = run to keep in step with the others, and not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes of a run, as one of them sees them."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.rank == 0

    def share(self, batches: Sequence[T]) -> list[Share[T]]:
        """The batches of a step that this rank runs."""
        rounds = -(-len(batches) // self.size)
        own = [Share(batch=batch, scale=1.0) for batch in batches[self.rank :: self.size]]
        return own + [Share(batch=batches[0], scale=0.0)] * (rounds - len(own))

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast("list[T]", values)

    def agree(self, value: T) -> T:
        """The first rank's value."""
        return self.gather(value)[0]

    def meet(self) -> None:
        """Wait for all."""
        self.gather(None)


ALONE = Ranks()


@contextmanager
def joined() -> Generator[Ranks]:
    """The ranks that torchrun started, or this process alone."""
    if dist.is_initialized():
        yield Ranks(rank=dist.get_rank(), size=dist.get_world_size())
        return
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(rank=dist.get_rank(), size=dist.get_world_size())
        _let_go()
    finally:
        dist.destroy_process_group()


def _let_go() -> None:
    """Until gloo's threads hold no tensor of the last collective.

    One that drops its tensors while the interpreter is being torn down ends in `std::terminate`: a
    run that had saved its model then exits with 134. There is nothing to wait for but their turn.
    """
    dist.barrier()
    for _ in range(20):
        time.sleep(0.01)  # each pause offers them the interpreter's lock


def shard(decoder: Decoder, ranks: Ranks, *, beside: nn.Module | None = None) -> None:
    """Cut every parameter over the ranks, in place; layers are put together when they are run.

    Anything that replaces or wraps modules (adapters, activation checkpointing) comes before it.
    """
    if ranks.size == 1:
        return
    mesh = init_device_mesh(decoder.norm.weight.device.type, (ranks.size,))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    # The decoder is not called but asked: these are its forward passes.
    for method in ("hidden", "logits"):
        register_fsdp_forward_method(decoder, method)
    if beside is not None:
        fully_shard(beside, mesh=mesh)
    for module in (decoder, beside):
        for part in module.modules() if module is not None else ():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut over the ranks; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this rank holds of `like`; no communication."""
    if not isinstance(like, DTensor):
        return tensor
    (placement,) = like.placements
    assert isinstance(placement, Shard)
    mesh = like.device_mesh
    cut = tensor.tensor_split(_edges(tensor.shape[placement.dim], mesh.size()), dim=placement.dim)[
        mesh.get_local_rank()
    ]
    return DTensor.from_local(
        cut, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _edges(rows: int, ranks: int) -> list[int]:
    """Where `torch.chunk`, and so FSDP2, cuts."""
    size = -(-rows // ranks)
    return [min(rows, size * rank) for rank in range(1, ranks)]


def unshard(module: nn.Module) -> None:
    """Make every parameter whole again, in place, to be saved: the module is not to be run after.

    Every rank must call it, and every rank then holds all.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # after a forward pass without a backward one it is put together
    for part in module.modules():
        for name, param in list(part.named_parameters(recurse=False)):
            if isinstance(param, DTensor):
                full = nn.Parameter(param.full_tensor().detach(), requires_grad=False)
                part.register_parameter(name, full)
