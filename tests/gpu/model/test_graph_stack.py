"""On a GPU: real graphs change no bit and hold little memory; the engine says what torch says."""

from dataclasses import replace

import pytest
import torch

from headrace.config import EngineSettings, ModelSettings
from headrace.engine.core import EngineCore, generate_all
from headrace.engine.request import EngineRequest
from headrace.engine.stacks import choose
from headrace.types import SamplingParams
from triton_device import DEVICE, relative_error

# isort: split
from gpu_steps import BLOCK_TOKENS, TINY, Traffic, decoder, eager
from headrace.model.gpu import GpuDecoder
from headrace.model.graphs import CudaRecorder, GraphStack, Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device"),
]

MODEL = replace(
    TINY,
    vocab_size=2048,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=64,
)


def stack(dtype: torch.dtype, recorder: Recorder | None) -> GraphStack:
    return GraphStack(
        GpuDecoder.take(decoder(MODEL, DEVICE, dtype)),
        blocks=40,
        block_tokens=BLOCK_TOKENS,
        most_rows=8,
        recorder=recorder,
    )


@pytest.mark.parametrize("sequences", [1, 2, 4, 8])
@torch.inference_mode()
def test_a_replay_has_the_bits_of_the_eager_step(sequences: int) -> None:
    replayed, plain = stack(torch.bfloat16, CudaRecorder()), stack(torch.bfloat16, None)
    traffic = Traffic()
    for rows in [3, *[1] * 12]:
        step = traffic.step(dict.fromkeys(range(sequences), rows))
        assert torch.equal(replayed.hidden(step), plain.hidden(step))
    assert replayed.stats().replayed == 11
    assert replayed.stats().held_bytes < 64 << 20


@torch.inference_mode()
def test_float32_agrees_with_plain_torch() -> None:
    ours, truth = stack(torch.float32, CudaRecorder()), eager(decoder(MODEL, DEVICE))
    traffic = Traffic()
    for rows in ({0: 100, 1: 7}, *[{0: 1, 1: 1}] * 6, {0: 9, 1: 1, 2: 30}, {2: 1}):
        step = traffic.step(rows)
        hidden, expected = ours.hidden(step), truth.hidden(step)
        assert relative_error(hidden, expected) < 2e-5
        assert relative_error(ours.logits(hidden), truth.logits(expected)) < 2e-5


def test_the_engine_says_the_same_with_and_without() -> None:
    requests = [
        EngineRequest(
            id=str(n),
            prompt=tuple(range(1, 5 + 13 * n)),
            sampling=SamplingParams(max_tokens=20, temperature=0.0, seed=n, ignore_eos=True),
        )
        for n in range(6)
    ]
    said: list[list[tuple[int, ...]]] = []
    for kernels in ("auto", "torch"):
        settings = EngineSettings(
            kernels=kernels, block_tokens=16, max_running=4, kv_cache_bytes=64 << 20
        )
        built = choose(decoder(MODEL, DEVICE), ModelSettings(), settings, threads=1)
        assert built.stack.name.startswith("triton" if kernels == "auto" else "torch")
        answers = generate_all(EngineCore(built.stack, settings, blocks=built.blocks), requests)
        said.append([answers[str(n)].choices[0].tokens for n in range(6)])
    assert said[0] == said[1]
