"""The process of an encoder: `headrace.engine.worker`'s loop over a `VectorCore`.

python -m headrace.engine.vector_worker --fd N      # N: an inherited, connected stream socket
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.config import EngineSettings, ModelSettings
from headrace.engine.threads import physical_cores
from headrace.engine.vector_core import VectorCore
from headrace.engine.worker import Link, Worker, run_process
from headrace.errors import ConfigError
from headrace.kernels.native import Pool
from headrace.model.encoder_checkpoint import EncoderCheckpoint, load_encoder
from headrace.model.native_encoder import NativeEncoder, obstacle
from headrace.model.vectors import EagerEncoder, EncoderStack, Vectors
from headrace.wire.frames import Configure, Ready

_LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process; its exit status."""
    return run_process("headrace.engine.vector_worker", _build, arguments)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedVectors:
    """A core and what it was made of."""

    core: VectorCore
    checkpoint: EncoderCheckpoint
    device: str
    dtype: str
    """What products are made in."""
    kernels: str
    threads: int


def load_vectors(path: Path, model: ModelSettings, engine: EngineSettings) -> LoadedVectors:
    """Load weights, choose kernels, run once.

    Args:
        path: The checkpoint's directory.
        model: dtype, device and context count.
        engine: Batch, queue, threads and kernels count.

    Raises:
        ConfigError: A device or kernels that cannot be had.
        CheckpointError: A directory that cannot be loaded.
    """
    device = model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"embeddings.device = {device!r} but this torch sees no GPU; use cpu")
    threads = engine.threads or physical_cores()
    torch.set_num_threads(threads)
    checkpoint = load_encoder(path, dtype=model.dtype, device=device)
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    stack = _choose(checkpoint, dtype=dtype, kernels=engine.kernels, threads=threads)
    vectors = Vectors(stack, checkpoint.sentences)
    positions = checkpoint.config.max_tokens
    core = VectorCore(
        vectors,
        engine,
        max_tokens=min(model.context_tokens or positions, positions),
        vocab_size=checkpoint.config.vocab_size,
    )
    core.warm_up()
    _LOG.info("%s: %s, %d threads", path.name, vectors.name, threads)
    return LoadedVectors(
        core=core,
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        kernels=vectors.name,
        threads=threads,
    )


def _choose(
    checkpoint: EncoderCheckpoint, *, dtype: str, kernels: str, threads: int
) -> EncoderStack:
    """What runs an encoder here. Raises: ConfigError: `native` where it cannot be had."""
    encoder = checkpoint.encoder
    why_not = obstacle(encoder, dtype) if kernels != "torch" else ""
    if kernels == "native" and why_not:
        raise ConfigError(f'embeddings.kernels = "native": {why_not}; use auto or torch')
    if why_not is not None:
        return EagerEncoder(encoder, encoder.norm.weight.device)
    if dtype == "bfloat16":
        # Norms, biases and tables stay what the file has; only products are rounded.
        encoder = load_encoder(checkpoint.path, dtype="float32").encoder
    return NativeEncoder(encoder, dtype=dtype, pool=Pool(threads))


def _build(configure: Configure, link: Link, started_s: float) -> tuple[Worker, Ready]:
    loaded = load_vectors(Path(configure.path), configure.model, configure.engine)
    ready = Ready(
        pid=os.getpid(),
        vocab_size=loaded.core.vocab_size,
        context_tokens=loaded.core.max_tokens,
        fingerprint=loaded.checkpoint.fingerprint,
        dtype=loaded.dtype,
        device=loaded.device,
        threads=loaded.threads,
        kernels=loaded.kernels,
        load_s=time.monotonic() - started_s,
    )
    return Worker(loaded.core, link, drain_s=configure.drain_s), ready


if __name__ == "__main__":
    sys.exit(main())
