"""Settings and a decoder → the `Stack` that runs it: native kernels where they can, else torch.

Invariant: what was asked for and cannot be had is refused with the reason; what runs says its name
(`Stack.name`), so nothing falls back in silence.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.config import EngineSettings, ModelSettings
from headrace.errors import ConfigError
from headrace.kernels import triton
from headrace.kernels.native import QuantizedFormat
from headrace.model import native
from headrace.model.attend import KvCache
from headrace.model.decoder import Decoder
from headrace.model.quantized import Fp8Linear, QuantizedLinear, quantize_decoder
from headrace.model.stack import EagerStack, Stack

_LOG = logging.getLogger(__name__)

# Where the machine does not say what is free; enough for a small model, and a setting overrides it.
_ASSUMED_FREE_BYTES = 2 << 30
_KERNELS = ("auto", "native", "torch")
_KV_DTYPES = ("auto", "bfloat16", "int8")
_FORMATS: dict[str, QuantizedFormat | None] = {"none": None, "int8": "int8", "int4": "int4"}
_GROUPS = (32, 64, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A stack, the number of blocks in its pool, and their size."""

    stack: Stack
    blocks: int
    block_bytes: int


def choose(
    decoder: Decoder, model: ModelSettings, engine: EngineSettings, *, threads: int
) -> Built:
    """Give a decoder the fastest kernels that the settings allow, and its KV pool.

    Sets torch's threads: one beside native kernels, which bring their own, else `threads`.

    Raises: ConfigError: Kernels, a KV dtype or a quantization that cannot be had, or a pool that
        holds nothing.
    """
    _one_of("engine.kernels", engine.kernels, _KERNELS)
    _one_of("engine.kv_dtype", engine.kv_dtype, _KV_DTYPES)
    _one_of("model.quantization", model.quantization, tuple(_FORMATS))
    _one_of("model.quantization_group", model.quantization_group, _GROUPS)
    if model.quantization != "none" and _is_quantized(decoder):
        raise ConfigError(
            f"model.quantization = {model.quantization!r}, but the checkpoint is quantized "
            "already; leave it out, or give the full-precision checkpoint"
        )
    obstacle = None if engine.kernels == "torch" else native.obstacle(decoder, engine.block_tokens)
    if engine.kernels == "native" and obstacle is not None:
        raise ConfigError(f"engine.kernels = 'native', but {obstacle}")
    if engine.kernels != "torch" and obstacle is None:
        torch.set_num_threads(1)
        return _native(decoder, model, engine, threads)
    if obstacle is not None and decoder.norm.weight.device.type == "cpu":
        _LOG.info("plain torch runs, not the native kernels: %s", obstacle)
    torch.set_num_threads(threads)
    if engine.kv_dtype == "int8":
        why = obstacle or "engine.kernels = 'torch'"
        raise ConfigError(f"engine.kv_dtype = 'int8' needs the native kernels, but {why}")
    if model.quantization != "none":
        quantize_decoder(decoder, format=model.quantization, group=model.quantization_group)
    if decoder.norm.weight.device.type == "cuda" and engine.kernels == "auto":
        return _on_gpu(decoder, engine)
    return eager(decoder, engine)


def _on_gpu(decoder: Decoder, engine: EngineSettings) -> Built:
    """Triton kernels and CUDA graphs where they can be had, else plain torch."""
    # Not at the top: these modules need triton, which only CUDA builds of torch bring.
    if (why := triton.why_not()) is None:
        from headrace.model import gpu, graphs

        why = gpu.obstacle(decoder)
        if why is None:
            blocks = _blocks(decoder, engine)
            stack = graphs.GraphStack(
                gpu.GpuDecoder.take(decoder),
                blocks=blocks,
                block_tokens=engine.block_tokens,
                most_rows=engine.max_running,
                recorder=graphs.CudaRecorder(),
            )
            return Built(stack=stack, blocks=blocks, block_bytes=_block_bytes(decoder, engine))
    _LOG.warning("plain torch runs, not the GPU kernels: %s", why)
    return eager(decoder, engine)


def eager(decoder: Decoder, engine: EngineSettings) -> Built:
    """Plain torch on the decoder's device; the pool has the decoder's dtype."""
    weight = decoder.norm.weight
    blocks = _blocks(decoder, engine)
    kv = KvCache.allocate(
        decoder.config,
        blocks=blocks,
        block_tokens=engine.block_tokens,
        dtype=weight.dtype,
        device=weight.device,
    )
    block_bytes = _block_bytes(decoder, engine)
    return Built(stack=EagerStack(decoder, kv), blocks=blocks, block_bytes=block_bytes)


def _blocks(decoder: Decoder, engine: EngineSettings) -> int:
    """Of a pool in the decoder's dtype, where the decoder is."""
    weight = decoder.norm.weight
    return pool_blocks(
        engine,
        block_bytes=_block_bytes(decoder, engine),
        context_tokens=decoder.context_tokens,
        free_bytes=free_bytes(weight.device),
    )


def _block_bytes(decoder: Decoder, engine: EngineSettings) -> int:
    """Of a block in the decoder's dtype."""
    dtype = decoder.norm.weight.dtype
    return engine.block_tokens * KvCache.bytes_per_token(decoder.config, dtype)


def _native(decoder: Decoder, model: ModelSettings, engine: EngineSettings, threads: int) -> Built:
    weights = native.pack(
        decoder,
        threads=threads,
        quantization=_FORMATS[model.quantization],
        group=model.quantization_group,
    )
    kv_format: native.KvFormat = "int8" if engine.kv_dtype == "int8" else "bfloat16"
    block_bytes = native.block_bytes(decoder.config, kv_format, engine.block_tokens)
    blocks = pool_blocks(
        engine,
        block_bytes=block_bytes,
        context_tokens=decoder.context_tokens,
        free_bytes=free_bytes(decoder.norm.weight.device),
    )
    stack = native.NativeStack(
        weights, blocks=blocks, block_tokens=engine.block_tokens, kv_format=kv_format
    )
    return Built(stack=stack, blocks=blocks, block_bytes=block_bytes)


def _is_quantized(decoder: Decoder) -> bool:
    return any(isinstance(module, QuantizedLinear | Fp8Linear) for module in decoder.modules())


def _one_of(key: str, value: str | int, known: tuple[str | int, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} = {value!r} is not one of {', '.join(map(str, known))}")


def pool_blocks(
    settings: EngineSettings, *, block_bytes: int, context_tokens: int, free_bytes: int
) -> int:
    """Blocks of the KV pool.

    `kv_cache_bytes` as given; where it is 0, a quarter of `free_bytes`, but at least one context
    and at most `max_running` of them.

    Raises: ConfigError: Not even one block, or a size that is no power of two.
    """
    size = settings.block_tokens
    if size < 1 or size & (size - 1):
        raise ConfigError(f"engine.block_tokens = {size} is not a power of two")
    for name in ("max_batch_tokens", "max_running"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"engine.{name} = {getattr(settings, name)} is below 1")
    if settings.kv_cache_bytes:
        blocks = settings.kv_cache_bytes // block_bytes
        if blocks < 1:
            raise ConfigError(
                f"engine.kv_cache_bytes = {settings.kv_cache_bytes} holds no block; one of {size} "
                f"tokens takes {block_bytes} bytes, one full context "
                f"{-(-context_tokens // size) * block_bytes}"
            )
        return blocks
    context = -(-context_tokens // size)
    return min(max(context, free_bytes // 4 // block_bytes), settings.max_running * context)


def free_bytes(device: torch.device) -> int:
    """Memory that can be had without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass  # not Linux
    return _ASSUMED_FREE_BYTES
