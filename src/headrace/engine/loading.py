"""A checkpoint directory → an engine core that is ready to step, in this process.

What the worker process and everything that steps an engine by hand (benches, roll-outs) share.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from headrace.config import EngineSettings, ModelSettings
from headrace.engine.core import EngineCore
from headrace.engine.stacks import choose
from headrace.engine.threads import physical_cores
from headrace.errors import ConfigError
from headrace.model.checkpoint import Checkpoint, load
from headrace.tokens import Tokenizer

# A chunk that doubles or triples a decode step of sixteen sequences on any number of cores, as at
# these widths both are bound by arithmetic.
_MIXED_PREFILL_TOKENS = 48
"""Beside 16 decoding sequences of a 1B shape a step takes three times as long as without."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedCore:
    """An engine and what it was made of."""

    core: EngineCore
    checkpoint: Checkpoint
    device: str
    threads: int


def load_core(
    path: Path,
    model: ModelSettings,
    engine: EngineSettings,
    *,
    tokenizer: Tokenizer | None = None,
) -> LoadedCore:
    """Load weights, choose kernels, size the KV pool, run once.

    Args:
        path: The checkpoint's directory.
        model: dtype, device, quantization, context; `model.path` says only whether it was given.
        engine: Sizes, threads and kernels.
        tokenizer: For stop strings.

    Raises:
        ConfigError: A device or setting that cannot be had.
        CheckpointError: A directory that cannot be loaded.
    """
    device = model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"model.device = {device!r} but this torch sees no GPU; use cpu or auto")
    # The bundled model (no path set) is small enough that float32 costs nothing and reads best.
    dtype = "float32" if model.dtype == "auto" and not model.path else model.dtype
    checkpoint = load(path, dtype=dtype, device=device, context_tokens=model.context_tokens)
    threads = engine.threads or physical_cores()
    built = choose(checkpoint.decoder, model, engine, threads=threads)
    if not engine.mixed_prefill_tokens and device == "cpu":
        engine = replace(engine, mixed_prefill_tokens=_MIXED_PREFILL_TOKENS)
    core = EngineCore(
        built.stack,
        engine,
        blocks=built.blocks,
        block_bytes=built.block_bytes,
        fingerprint=checkpoint.fingerprint,
        context_tokens=model.context_tokens or None,
        tokenizer=tokenizer,
    )
    name, blocks = built.stack.name, built.blocks
    _LOG.info("%s: %s, %d threads, %d KV blocks", path.name, name, threads, blocks)
    core.warm_up()
    return LoadedCore(core=core, checkpoint=checkpoint, device=device, threads=threads)
