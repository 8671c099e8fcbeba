"""A full-precision directory → a decoder whose matrices are in NF4, one matrix at a time.

Invariant: no more than one full-precision matrix is in memory beside what stays, whatever the size
of the checkpoint: each tensor's file is mapped for that tensor alone, so that its pages go again.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.adapters import module_of, put
from headrace.model.checkpoint import Checkpoint, choose_dtype, hub_name, match
from headrace.model.decoder import Decoder
from headrace.model.files import TensorEntry, peek, read_tensors
from headrace.model.fingerprint import fingerprint
from headrace.model.matrices import matrices
from headrace.model.nf4 import Nf4Linear, quantize
from headrace.model.quantization import HEAD


def load_nf4(
    path: Path | str,
    *,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    block: int = 64,
    double: bool = True,
    skip: Collection[str] = (),
) -> Checkpoint:
    """Load a checkpoint directory with the layers' matrices in NF4.

    Args:
        path: The directory.
        dtype: Of everything else, and of what is computed: auto | float32 | bfloat16 | float16.
        device: Where the weights go.
        block: Numbers that share a scale.
        double: Whether the scales are quantized as well.
        skip: Matrices that stay in `dtype`, by their names in the file.

    Raises:
        CheckpointError: As `checkpoint.load`; UnsupportedModel for a quantized checkpoint.
    """
    directory, target = Path(path), torch.device(device)
    seen = peek(directory)
    if seen.config.quantization is not None:
        raise UnsupportedModel(
            f"{directory} is stored as {seen.config.quantization.format}; an NF4 base is made of "
            "the full-precision checkpoint"
        )
    stored = read_tensors(directory)
    chosen = choose_dtype(dtype, stored)
    with torch.device("meta"):
        decoder = Decoder(seen.config)
    match(directory, decoder, stored)
    rounded = set(matrices(seen.config)) - {HEAD, *skip}
    for name, parameter in list(decoder.named_parameters()):
        file_name = hub_name(name)
        tensor = _read(file_name, stored[file_name]).to(device=target, dtype=chosen)
        owner, _, attribute = file_name.rpartition(".")
        module = module_of(decoder, owner)
        if attribute == "weight" and owner in rounded:
            assert isinstance(module, nn.Linear)
            matrix = quantize(tensor, block=block, double=double)
            put(decoder, owner, Nf4Linear(matrix, dtype=chosen, bias=module.bias))
        else:
            # Copied, or the whole file would stay mapped for it.
            own = tensor.clone() if tensor.device.type == "cpu" else tensor
            module.register_parameter(attribute, nn.Parameter(own, parameter.requires_grad))
    decoder.eval()
    return Checkpoint(
        decoder=decoder,
        config=seen.config,
        dtype=chosen,
        fingerprint=fingerprint(directory, {entry.file for entry in stored.values()}),
        generation=seen.generation,
        eos_ids=seen.eos_ids,
        path=directory,
    )


def _read(name: str, entry: TensorEntry) -> Tensor:
    try:
        with safe_open(entry.file, framework="pt") as tensors:
            return tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{entry.file} cannot be read: {error}; download it again") from error
