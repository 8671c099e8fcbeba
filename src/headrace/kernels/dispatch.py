"""Device → the implementation of each kernel that runs there.

Invariant: every entry computes what the torch reference in `TORCH` computes, within the tolerance
its own tests state; a device without an entry gets the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.kernels import elementwise, packed, paged


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """One implementation of everything; a faster one is `replace(TORCH, name=..., rotate=...)`."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    packed_attention: Callable[[Tensor, Tensor, Tensor, packed.PackedPlan, int | None], Tensor]
    paged_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, paged.PagedPlan], Tensor]
    write_cache: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


TORCH = Kernels(
    name="torch",
    rms_norm=elementwise.rms_norm,
    rotate=elementwise.rotate,
    packed_attention=packed.packed_attention,
    paged_attention=paged.paged_attention,
    write_cache=paged.write_cache,
)

BY_DEVICE: dict[str, Kernels] = {"cpu": TORCH}
"""Device type -> kernels."""


def kernels_for(device: torch.device) -> Kernels:
    """The kernels that run on this device."""
    return BY_DEVICE.get(device.type, TORCH)
