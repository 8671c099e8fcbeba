"""Random bfloat16 decoders that the native kernels run, and stacks and cores over them."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.config import EngineSettings, ModelSettings
from headrace.engine.core import EngineCore
from headrace.engine.stacks import choose
from headrace.kernels.native import why_not
from headrace.model import native
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.stack import Stack, Step

needs_native = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

VOCAB = 131
BLOCK_TOKENS = 16

SHAPES: dict[str, dict[str, int]] = {
    # heads, key heads, head dim, width, inner: groups of 4, 2, 3 and 1; sizes that fill no tile
    "llama": {"n": 8, "k": 2, "h": 32, "d": 96, "f": 160},
    "qwen3": {"n": 4, "k": 2, "h": 64, "d": 100, "f": 90},
    "qwen2": {"n": 6, "k": 2, "h": 48, "d": 64, "f": 77},
    "mistral": {"n": 3, "k": 3, "h": 80, "d": 66, "f": 96},
}


@cache
def config_of(family: str) -> ModelConfig:
    shape = SHAPES[family]
    return ModelConfig(
        family=family,
        vocab_size=VOCAB,
        hidden_size=shape["d"],
        intermediate_size=shape["f"],
        num_hidden_layers=3,
        num_attention_heads=shape["n"],
        num_key_value_heads=shape["k"],
        head_dim=shape["h"],
        max_position_embeddings=256,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tie_word_embeddings=family != "llama",
        windows=(21, None) if family == "mistral" else (),
        initializer_range=0.15,
    )


@cache
def bf16_decoder(family: str) -> Decoder:
    """Weights, norms and biases all away from their neutral values."""
    decoder = Decoder(config_of(family))
    decoder.init_weights(5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim == 1:
                spread = 0.2 if name.endswith("bias") else 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return decoder.bfloat16().eval()


@cache
def exact_decoder(family: str) -> Decoder:
    """The same weights in float32: what bfloat16 arithmetic is held against."""
    exact = Decoder(config_of(family))
    exact.load_state_dict({k: v.float() for k, v in bf16_decoder(family).state_dict().items()})
    return exact.eval()


def native_stack(
    family: str,
    *,
    quantization: native.native.QuantizedFormat | None = None,
    kv_format: native.KvFormat = "bfloat16",
    threads: int = 2,
    blocks: int = 40,
) -> native.NativeStack:
    weights = native.pack(bf16_decoder(family), threads=threads, quantization=quantization)
    return native.NativeStack(
        weights, blocks=blocks, block_tokens=BLOCK_TOKENS, kv_format=kv_format
    )


def native_core(
    family: str,
    *,
    blocks: int = 64,
    quantization: str = "none",
    kv_dtype: str = "auto",
    max_batch_tokens: int = 512,
) -> EngineCore:
    config = config_of(family)
    kv_format: native.KvFormat = "int8" if kv_dtype == "int8" else "bfloat16"
    engine = EngineSettings(
        kernels="native",
        block_tokens=BLOCK_TOKENS,
        kv_dtype=kv_dtype,
        kv_cache_bytes=blocks * native.block_bytes(config, kv_format, BLOCK_TOKENS),
        max_batch_tokens=max_batch_tokens,
    )
    model = ModelSettings(quantization=quantization)
    built = choose(bf16_decoder(family), model, engine, threads=2)
    assert built.blocks == blocks
    return EngineCore(built.stack, engine, blocks=built.blocks, fingerprint=family)


def run(stack: Stack, ids: Sequence[int], chunks: Sequence[int], table: Sequence[int]) -> Tensor:
    """Logits of every row of one sequence, run alone in chunks."""
    return run_together(stack, [ids], [[size] for size in chunks], [table])[0]


def run_together(
    stack: Stack,
    sequences: Sequence[Sequence[int]],
    schedule: Sequence[Sequence[int]],
    tables: Sequence[Sequence[int]],
) -> list[Tensor]:
    """Logits of every row of several sequences; `schedule[step][s]` rows of each run in a step."""
    done = [0] * len(sequences)
    found: list[list[Tensor]] = [[] for _ in sequences]
    width = max(map(len, tables))
    for sizes in schedule:
        members = [s for s, size in enumerate(sizes) if size]
        ids: list[int] = []
        positions: list[int] = []
        starts = [0]
        for s in members:
            ids += sequences[s][done[s] : done[s] + sizes[s]]
            positions += range(done[s], done[s] + sizes[s])
            done[s] += sizes[s]
            starts.append(len(ids))
        step = Step(
            ids_T=np.array(ids, dtype=np.int32),
            pos_T=np.array(positions, dtype=np.int32),
            row_start_S1=np.array(starts, dtype=np.int32),
            context_S=np.array([done[s] for s in members], dtype=np.int32),
            blocks_SB=np.array(
                [[*tables[s], *[0] * (width - len(tables[s]))] for s in members], dtype=np.int32
            ),
        )
        with torch.inference_mode():
            logits_TV = stack.logits(stack.hidden(step)).clone()
        for s, start, end in zip(members, starts, starts[1:], strict=False):
            found[s].append(logits_TV[start:end])
    return [torch.cat(parts) for parts in found]
