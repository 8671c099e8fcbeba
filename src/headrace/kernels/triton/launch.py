# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""What every kernel file needs: sizes of tiles, and products that the interpreter can do too."""

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Kernels run as numpy on the CPU: TRITON_INTERPRET was set before triton was imported."""

WIDEST_TILE = 32768
"""Elements of one row that a single program holds at once."""


@triton.jit
def product(a, b, acc):
    """`acc + a @ b` in float32."""
    if INTERPRETED:  # numpy has no bfloat16; its products are exact in float32 either way
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    elif a.dtype.is_fp8():  # Hopper's fp8 units add up in 14 bits: hand over to float32 each tile
        return tl.dot(a, b, acc, max_num_imprecise_acc=a.shape[1])
    return tl.dot(a, b, acc, input_precision="ieee")


def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 1 for the interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def padded(size: int, least: int = 1) -> int:
    """The power of two that holds `size` elements, at least `least`."""
    return max(least, triton.next_power_of_2(size))
