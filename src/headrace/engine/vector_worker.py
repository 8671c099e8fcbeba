"""The process of an encoder: `headrace.engine.worker`'s loop over a `VectorCore`.

python -m headrace.engine.vector_worker --fd N      # N: an inherited, connected stream socket
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from headrace.config import EngineSettings, ModelSettings
from headrace.engine.threads import physical_cores
from headrace.engine.vector_core import VectorCore
from headrace.engine.worker import Link, Worker, run_process
from headrace.errors import ConfigError
from headrace.model.encoder_checkpoint import EncoderCheckpoint, load_encoder
from headrace.model.vectors import EagerEncoder, EncoderStack, Vectors
from headrace.wire.frames import Configure, Ready

_LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process; its exit status."""
    return run_process("headrace.engine.vector_worker", _build, arguments)


def load_vector_core(path: Path, model: ModelSettings, engine: EngineSettings) -> VectorCore:
    """Load weights, choose kernels, run once.

    Args:
        path: The checkpoint's directory.
        model: dtype, device and context count.
        engine: Batch, queue, threads and kernels count.

    Raises:
        ConfigError: A device or kernels that cannot be had.
        CheckpointError: A directory that cannot be loaded.
    """
    return _load(path, model, engine)[0]


def _load(
    path: Path, model: ModelSettings, engine: EngineSettings
) -> tuple[VectorCore, EncoderCheckpoint, str]:
    device = model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"embeddings.device = {device!r} but this torch sees no GPU; use cpu")
    threads = engine.threads or physical_cores()
    checkpoint = load_encoder(path, dtype=model.dtype, device=device)
    stack = choose(checkpoint, device=device, kernels=engine.kernels, threads=threads)
    vectors = Vectors(stack, checkpoint.sentences)
    longest = min(
        model.context_tokens or checkpoint.sentences.max_tokens, checkpoint.config.max_tokens
    )
    core = VectorCore(vectors, engine, max_tokens=longest, vocab_size=checkpoint.config.vocab_size)
    core.warm_up()
    _LOG.info("%s: %s, %d threads", path.name, vectors.name, threads)
    return core, checkpoint, vectors.name


def choose(
    checkpoint: EncoderCheckpoint, *, device: str, kernels: str, threads: int
) -> EncoderStack:
    """What runs an encoder here.

    Raises: ConfigError: `native` where it cannot be had.
    """
    torch.set_num_threads(threads)
    return EagerEncoder(checkpoint.encoder, device)


def _build(configure: Configure, link: Link, started_s: float) -> tuple[Worker, Ready]:
    core, checkpoint, name = _load(Path(configure.path), configure.model, configure.engine)
    ready = Ready(
        pid=os.getpid(),
        vocab_size=core.vocab_size,
        context_tokens=core.max_tokens,
        fingerprint=checkpoint.fingerprint,
        dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=str(next(checkpoint.encoder.parameters()).device),
        threads=configure.engine.threads or physical_cores(),
        kernels=name,
        load_s=time.monotonic() - started_s,
    )
    return Worker(core, link, drain_s=configure.drain_s), ready


if __name__ == "__main__":
    sys.exit(main())
